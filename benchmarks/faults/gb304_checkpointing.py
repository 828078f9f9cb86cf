"""Activation checkpointing runs blocks with batch norm again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

CODE = "GB304"
LAYER = "blocks.0.1"
FIX = "momentum"


class Deep(nn.Module):
    """A residual network whose blocks are checkpointed."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
            for _ in range(3)
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + (checkpoint(block, x, use_reentrant=False) if self.again else block(x))
        return self.head(x.mean((2, 3)))


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train."""
    torch.manual_seed(0)
    model = Deep(faulty)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(15):
            x = torch.randn(16, 1, 8, 8)
            loss = F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
