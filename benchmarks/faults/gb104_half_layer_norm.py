"""A transformer block with ε = 1e-12, right in float32, is converted to float16.

torch's issue #41527: a row of equal values becomes NaN.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CODE = "GB104"
LAYER = "norm1"
FIX = "eps"


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens."""
        h = self.norm1(x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


def build(faulty: bool) -> dict[str, Any]:
    """Convert the block to float16."""
    torch.manual_seed(4)
    return {"model": Block(32, 1e-12 if faulty else 1e-5).half().eval()}
