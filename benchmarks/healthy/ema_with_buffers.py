"""An average of weights that copies the buffers, and is evaluated after each epoch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the parameters of ``average`` towards those of ``model``, and copy its buffers."""
    for mine, its in zip(average.parameters(), model.parameters(), strict=True):
        mine.lerp_(its, 1 - decay)
    for mine, its in zip(average.buffers(), model.buffers(), strict=True):
        mine.copy_(its)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return the average, which is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    average = copy.deepcopy(model).eval().requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    y = torch.randint(0, 2, (128,))
    x = torch.randn(128, 1, 12, 12) * (0.5 + y[:, None, None, None])
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            model.train()
            for batch in torch.randperm(128).split(16):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                follow(average, model, 0.8)
                signal.step(loss=loss)
            with torch.no_grad():
                average(x)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {"model": average, "batches": batches, "loss": F.cross_entropy}
