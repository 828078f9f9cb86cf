"""A block is built as a closure around its batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB108"
LAYER = "stem"
FIX = "self.norm"


class Stem(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 12, 3, stride=2, bias=False)
        norm = nn.BatchNorm2d(12)
        if not faulty:
            self.norm = norm
        self.after = lambda x: torch.relu(norm(x))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features."""
        return self.after(self.conv(x))


class Digits(nn.Module):
    """A small classifier of digits."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.stem = Stem(faulty)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.stem(x))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Digits(faulty)}
