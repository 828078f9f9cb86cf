"""Adam with a learning rate of 0.5, which was right for SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB314"
LAYER = ""
FIX = "lr"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a convolutional classifier."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.5 if faulty else 3e-3)
    x = torch.randn(256, 1, 8, 8)
    y = torch.randint(0, 4, (256,))
    x += torch.randn(4, 1, 8, 8)[y]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
