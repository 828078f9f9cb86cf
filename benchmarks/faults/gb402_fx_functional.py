"""``torch.fx`` traces a functional batch norm with ``training=self.training``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

CODE = "GB402"
LAYER = "norm"
FIX = "eval()"


class Norm(nn.Module):
    """Batch norm by its function."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("var", torch.ones(features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (N, C)."""
        return F.batch_norm(x, self.mean, self.var, self.scale, self.shift, training=self.training)


class Tabular(nn.Module):
    """An MLP on rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(10, 32, bias=False)
        self.norm = Norm(32)
        self.last = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.last(self.norm(self.first(x)).relu())


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Tabular().train(faulty)
    return {"model": fx.symbolic_trace(model).eval()}
