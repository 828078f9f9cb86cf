"""Convolutions keep their default bias before a batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB116"
LAYER = "body.0"
FIX = "bias=False"


class Discriminator(nn.Module):
    """Tells images from those of a generator."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 4, stride=2, bias=faulty),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 4, bias=faulty),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
        )
        self.score = nn.Conv2d(16, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (N,) scores."""
        return self.score(self.body(x)).mean((1, 2, 3))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Discriminator(faulty)}
