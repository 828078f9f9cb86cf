"""``train()`` is overridden to return early, so that ``eval()`` never reaches the norms."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB202"
LAYER = "encoder.1"
FIX = "train"


class Detector(nn.Module):
    """A small net whose author wanted ``train()`` to set a flag."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3)
        )
        self.head = nn.Linear(16, 3)

    def train(self, mode: bool = True) -> Detector:
        """Set the mode."""
        if self.faulty:
            self.training = mode
            return self
        return super().train(mode)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.encoder(x).relu().mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    x, y = torch.randn(4, 8, 1, 10, 10), torch.randint(3, (4, 8))
    model = Detector(faulty)
    return {"model": model, "batches": list(zip(x, y, strict=True)), "loss": F.cross_entropy}
