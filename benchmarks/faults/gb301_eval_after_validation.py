"""Validation calls ``eval()`` and nothing calls ``train()`` again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB301"
LAYER = ""
FIX = "train()"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train with a validation after each epoch."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x = torch.randn(256, 8)
    y = x[:, :3].argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(3):
            if not faulty:
                model.train()
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            model.eval()
            with torch.no_grad():
                model(x)
