"""A dynamically quantized tagger is put into training mode again."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn
from torch.ao import quantization

CODE = "GB403"
LAYER = "norm"
FIX = "eval()"


class Tagger(nn.Module):
    """Labels words by their vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(16, 32)
        self.norm = nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.out(self.norm(self.lift(x)).relu())


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Tagger()
    for _ in range(30):
        model(torch.randn(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation of this API
        quantized = quantization.quantize_dynamic(model.eval(), {nn.Linear})
    return {"model": quantized.train(faulty)}
