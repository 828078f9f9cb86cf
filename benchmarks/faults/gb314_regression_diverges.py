"""A step size beyond 2 ÷ curvature: the inputs have a large scale and the loss explodes."""

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
    """Fit a regression on ages in years."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.6 if faulty else 0.02, momentum=0.9)
    x = torch.rand(512, 6) * 4
    y = x.sum(1, keepdim=True) + torch.randn(512, 1) * 0.3
    with watch(model, optimizer=optimizer) as signal:
        for step in range(60):
            batch = torch.arange(step * 64, step * 64 + 64) % 512
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
