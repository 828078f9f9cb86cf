"""BatchNorm1d is given (N, L, C) of a linear layer, and L equals C."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB204"
LAYER = "norm"
FIX = "transpose"


class Frames(nn.Module):
    """A net on frames: a linear layer for each, then batch norm."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.embed, self.norm = nn.Linear(6, 16), nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of (N, 16, 6)."""
        x = self.embed(x)
        x = self.norm(x) if self.faulty else self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.head(x.relu().mean(1))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    x, y = torch.randn(3, 12, 16, 6), torch.randint(4, (3, 12))
    model = Frames(faulty)
    return {"model": model, "batches": list(zip(x, y, strict=True)), "loss": F.cross_entropy}
