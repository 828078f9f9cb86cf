"""Twelve layers of sigmoids: the first ones get no gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB317"
LAYER = "0"
FIX = "ReLU"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a deep multilayer perceptron."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 12
    for _depth in range(12):
        linear = nn.Linear(width, 32)
        if not faulty:
            nn.init.kaiming_normal_(linear.weight)
        layers += [linear, nn.Sigmoid() if faulty else nn.ReLU()]
        width = 32
    model = nn.Sequential(*layers, nn.Linear(32, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    x = torch.randn(256, 12)
    y = x[:, :3].argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
