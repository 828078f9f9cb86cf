"""Large clips are trained one at a time, and a projection head has batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CODE = "GB206"
LAYER = "projector.1"
FIX = "GroupNorm"


class Video(nn.Module):
    """A net on clips with a projection head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv3d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU())
        self.projector = nn.Sequential(nn.Linear(8, 16, bias=False), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.projector(self.body(x).mean((2, 3, 4))))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    clips = torch.randn(3, 1 if faulty else 8, 3, 4, 12, 12)
    return {"model": Video(), "batches": list(clips)}
