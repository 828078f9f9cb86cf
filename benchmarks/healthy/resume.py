"""A training that is resumed from a checkpoint of model, optimizer and schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def made() -> tuple[nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.StepLR]:
    """Return a model, its optimizer and its schedule."""
    model = nn.Sequential(
        nn.Conv1d(4, 16, 5, padding=2, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Conv1d(16, 32, 5, 2, padding=2, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.5)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, resume, and return what is examined."""
    torch.manual_seed(0)
    y = torch.randint(0, 4, (128,))
    x = torch.randn(128, 4, 24) + F.one_hot(y, 4)[:, :, None]
    parts = made()
    model, optimizer, schedule = parts
    for batch in torch.randint(0, 128, (15, 32)):
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    saved = [part.state_dict() for part in parts]

    parts = made()
    for part, state in zip(parts, saved, strict=True):
        part.load_state_dict(state)
    model, optimizer, schedule = parts
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(5):
            for batch in torch.randperm(128).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
