"""A backbone is frozen with requires_grad and eval(), and train() puts its norms back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB307"
LAYER = "backbone.1"
FIX = "freeze"


class Net(nn.Module):
    """A backbone and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify images."""
        return self.head(self.backbone(x).mean((2, 3)))


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train the head."""
    torch.manual_seed(0)
    model = Net()
    for p in model.backbone.parameters():
        p.requires_grad = False
    model.backbone.eval()
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(2):
            model.train()
            if not faulty:
                model.backbone.eval()
            for _ in range(8):
                x = torch.randn(16, 1, 8, 8)
                loss = F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
