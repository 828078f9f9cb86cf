"""The module of an exported program that was captured in training mode is served."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB401"
LAYER = "norm"
FIX = "eval()"


class Forecast(nn.Module):
    """A forecast from a window of a series."""

    def __init__(self) -> None:
        super().__init__()
        self.lift = nn.Linear(12, 32, bias=False)
        self.norm = nn.BatchNorm1d(32)
        self.out = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N, 1)."""
        return self.out(torch.relu(self.norm(self.lift(x))))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Forecast().train(faulty)
    return {"model": torch.export.export(model, (torch.randn(4, 12),)).module()}
