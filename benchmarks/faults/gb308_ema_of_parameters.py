"""An exponential moving average follows the parameters only; it has the initial statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB308"
LAYER = ""
FIX = "buffers"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train, and keep an average of the weights for evaluation."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    average = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(50):
            x = torch.randn(32, 8)
            loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                for a, p in zip(average.parameters(), model.parameters(), strict=True):
                    a.lerp_(p, 0.1)
                if not faulty:
                    for a, b in zip(average.buffers(), model.buffers(), strict=True):
                        a.copy_(b)
            signal.step(loss=loss)
        average(torch.randn(100, 8))
