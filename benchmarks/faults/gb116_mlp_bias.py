"""Linear layers of an MLP have a bias that the batch norm after them removes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB116"
LAYER = "first"
FIX = "bias=False"


class MLP(nn.Module):
    """Two layers, one of them normalized."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.first = nn.Linear(20, 64, bias=faulty)
        self.norm = nn.BatchNorm1d(64)
        self.last = nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.last(torch.relu(self.norm(self.first(x))))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": MLP(faulty)}
