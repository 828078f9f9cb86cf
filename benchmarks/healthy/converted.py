"""A network after `gammabeta.convert`, with its activations fused into the norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Convert, train, and return what is examined."""
    torch.manual_seed(0)
    model = gb.convert(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 4),
        )
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    y = torch.randint(0, 4, (128,))
    x = torch.randn(128, 3, 10, 10) * 0.5 + F.one_hot(y, 4)[:, :3, None, None]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(128).split(16):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
