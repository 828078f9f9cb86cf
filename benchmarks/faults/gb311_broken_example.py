"""One example of the training data has a NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB311"
LAYER = ""
FIX = "isfinite"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on a table with a missing value."""
    torch.manual_seed(0)
    x = torch.randn(256, 6)
    y = (x[:, 0] > 0).long()
    if faulty:
        x[200, 3] = float("nan")
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer=optimizer) as signal:
        for batch in torch.arange(256).split(16):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            if torch.isfinite(loss):
                loss.backward()
                optimizer.step()
            signal.step(loss=loss)
