"""Gradients are accumulated over eight micro-batches of two images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB310"
LAYER = ""
FIX = "group"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a convolutional network with an effective batch of 16 (of 128 in the healthy twin)."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    size, accumulate = (2 if faulty else 16), 8
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(8):
            for _ in range(accumulate):
                x = torch.randn(size, 3, 16, 16)
                loss = F.cross_entropy(model(x), (x.mean((1, 2, 3)) > 0).long())
                (loss / accumulate).backward()
            optimizer.step()
            optimizer.zero_grad()
            signal.step(loss=loss)
