"""A validation loop under no_grad() after each epoch, without eval()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB302"
LAYER = ""
FIX = "eval()"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a convolutional network, and validate after each epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 2),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(160, 1, 8, 8)
    y = (x[:, 0, :4].mean((1, 2)) > 0).long()
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(3):
            model.train()
            for i in range(0, 128, 16):
                loss = F.cross_entropy(model(x[i : i + 16]), y[i : i + 16])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            if not faulty:
                model.eval()
            with torch.no_grad():
                for i in range(128, 160, 8):
                    model(x[i : i + 8])
