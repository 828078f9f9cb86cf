"""A batch norm is made in forward, because there the channels are known."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB109"
LAYER = "body.2"
FIX = "__init__"


class Normalize(nn.Module):
    """Batch norm over however many channels there are."""

    def __init__(self, channels: int, faulty: bool) -> None:
        super().__init__()
        self.norm = None if faulty else nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize (N, C, H, W)."""
        if self.norm is not None:
            return self.norm(x)
        return nn.BatchNorm2d(x.shape[1]).to(x)(x)


class Net(nn.Module):
    """A convolutional classifier."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False),
            nn.Identity(),
            Normalize(8, faulty),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.body(x))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Net(faulty)}
