"""Fine-tuning with `gammabeta.freeze`: batch norms stand still while the convolutions learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Pretrain, freeze the batch norms, fine-tune, and return what is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    y = torch.randint(0, 3, (96,))
    x = torch.randn(96, 3, 12, 12) + F.one_hot(y, 3)[:, :, None, None]
    before = torch.optim.SGD(model.parameters(), lr=0.05)
    for _step in range(60):
        batch = torch.randperm(96)[:32]
        loss = F.cross_entropy(model(x[batch]), y[batch])
        before.zero_grad()
        loss.backward()
        before.step()

    gb.freeze(model)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learned, lr=1e-3, momentum=0.9)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            model.train()
            for batch in torch.randperm(96).split(4):  # small batches, the reason to freeze
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
