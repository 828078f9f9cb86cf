"""GroupNorm is given channels-last features of windows, and the height equals the channels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB204"
LAYER = "norm"
FIX = "permute"


class Windows(nn.Module):
    """Features of an image, kept channels-last for linear layers."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.patch, self.mlp = nn.Conv2d(3, 16, 2, 2), nn.Linear(16, 16)
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of (N, 3, 32, 32)."""
        x = self.mlp(F.gelu(self.patch(x).permute(0, 2, 3, 1)))
        x = self.norm(x) if self.faulty else self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.head(x.mean((1, 2)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Windows(faulty), "batches": list(torch.randn(2, 4, 3, 32, 32))}
