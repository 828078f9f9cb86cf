"""Lazy modules are initialized by a dry run with noise, while the run is watched already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB306"
LAYER = ""
FIX = "eval()"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a multilayer perceptron after a check that shapes fit."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    with watch(model, optimizer=optimizer) as signal:
        if not faulty:
            model.eval()
        if model(100 * torch.randn(4, 6)).shape != (4, 3):
            raise ValueError("the model has another number of classes")
        model.train()
        for _ in range(25):
            x = torch.randn(32, 6)
            loss = F.cross_entropy(model(x), x[:, :3].argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
