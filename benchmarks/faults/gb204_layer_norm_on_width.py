"""LayerNorm(C) is given (N, C, H, W) of a convolution, and W equals C."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB204"
LAYER = "blocks.0.norm"
FIX = "permute"


class Block(nn.Module):
    """A block in the style of ConvNeXt."""

    def __init__(self, width: int, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.mix = nn.Conv2d(width, width, 5, padding=2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the block adds."""
        h = self.mix(x)
        h = self.norm(h) if self.faulty else self.norm(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return x + self.down(F.gelu(self.up(h)))


class Net(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 2, 2)
        self.blocks = nn.Sequential(Block(16, faulty), Block(16, faulty))
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits of (N, 3, 32, 32)."""
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Net(faulty), "batches": list(torch.randn(2, 4, 3, 32, 32))}
