"""A network on a table, with a last batch that is smaller, and a validation without gradients."""

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
        nn.BatchNorm1d(10),
        nn.Linear(10, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        nn.Linear(64, 32, bias=False),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(32, 1),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x = torch.randn(276, 10) * torch.logspace(0, 2, 10) + torch.linspace(0, 50, 10)
    z = (x - x.mean(0)) / x.std(0)
    y = (z[:, :3].sum(1, keepdim=True) + 0.1 * torch.randn(276, 1)).tanh()
    x, y, held_x, held_y = x[:212], y[:212], x[212:], y[212:]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(25):
            model.train()
            for batch in torch.randperm(212).split(64):  # the last one has 20 rows
                loss = F.mse_loss(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            model.eval()
            with torch.no_grad():
                F.mse_loss(model(held_x), held_y)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    return {"model": model, "batches": batches, "loss": F.mse_loss, "optimizer": optimizer}
