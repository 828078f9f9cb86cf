"""Four micro-batches of 32 a step: each is large enough for its batch norm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 5),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    x = torch.randn(512, 16)
    y = (x @ torch.randn(16, 5)).argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(512).split(128):
                optimizer.zero_grad()
                total = 0.0
                for micro in batch.split(32):
                    loss = F.cross_entropy(model(x[micro]), y[micro]) / 4
                    loss.backward()
                    total += float(loss.detach())
                optimizer.step()
                signal.step(loss=total)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
