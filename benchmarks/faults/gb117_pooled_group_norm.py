"""A squeeze-and-excitation gate with one channel a group, after pooling to 1×1."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB117"
LAYER = "gate.2"
FIX = "GroupNorm"


class Excited(nn.Module):
    """Convolution features, scaled by a gate for each channel."""

    def __init__(self, faulty: bool, channels: int = 16) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, channels, 1),
            nn.GroupNorm(channels if faulty else 1, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scaled features."""
        y = self.conv(x)
        return y * self.gate(y)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    batches = [torch.randn(8, 3, 12, 12) for _ in range(2)]
    return {"model": Excited(faulty), "batches": batches}
