"""Two patches a step leave eight values per channel at the last stage of a segmentation net."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB212"
LAYER = "down.5"
FIX = "batch_size"


class Segmentation(nn.Module):
    """An encoder and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=4, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.up = nn.ConvTranspose2d(16, 2, 16, stride=16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return two logits a pixel."""
        return self.up(self.down(x))


def build(faulty: bool) -> dict[str, Any]:
    """Return batches of 2 patches, or of 16."""
    torch.manual_seed(0)
    size = 2 if faulty else 16
    batches = [
        (torch.randn(size, 1, 32, 32), torch.randint(0, 2, (size, 32, 32))) for _ in range(4)
    ]
    return {"model": Segmentation(), "batches": batches, "loss": F.cross_entropy}
