"""A bias of −10, copied from a detector's focal-loss head, switches a hidden layer off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB319"
LAYER = "2"
FIX = "zeros_"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a multilayer perceptron."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3)
    )
    if faulty:
        nn.init.constant_(model[2].bias, -10.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(256, 10)
    y = x[:, :3].argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(5):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
