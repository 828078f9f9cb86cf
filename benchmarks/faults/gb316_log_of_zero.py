"""The loss takes the logarithm of a probability that underflows to 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

CODE = "GB316"
LAYER = ""
FIX = "eps"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a detector of rare events by a likelihood that is written out by hand."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    eps = 0.0 if faulty else 1e-6
    with watch(model, optimizer=optimizer) as signal:
        for step in range(120):
            x = torch.randn(64, 8)
            if step > 60:
                x *= 20.0
            p = model(x)[:, 0]
            y = (x[:, 0] > 0).float()
            loss = -(y * (p + eps).log() + (1 - y) * (1 - p + eps).log()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
