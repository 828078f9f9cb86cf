"""A learning rate with warm-up and cosine decay, and a validation after each epoch."""

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
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(32, 3),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=10)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, decay], [10])
    y = torch.randint(0, 3, (160,))
    x = torch.randn(160, 1, 12, 12) * 0.5
    x[:, 0, 3, 3:9] += y[:, None]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            model.train()
            for batch in torch.randperm(128).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                signal.step(loss=loss)
            model.eval()
            with torch.no_grad():
                F.cross_entropy(model(x[128:]), y[128:])
    batches = list(zip(x[:128].split(32), y[:128].split(32), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
