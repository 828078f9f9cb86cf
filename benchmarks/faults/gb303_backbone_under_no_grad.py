"""A frozen feature extractor runs under no_grad(), but in training mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB303"
LAYER = "backbone.1"
FIX = "eval()"


class Probe(nn.Module):
    """A head on a fixed backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images."""
        with torch.no_grad():
            features = self.backbone(x)
        return self.head(features)


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train the head."""
    torch.manual_seed(0)
    model = Probe()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    if not faulty:
        model.backbone.eval()
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(20):
            x = torch.randn(16, 3, 8, 8)
            loss = F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
