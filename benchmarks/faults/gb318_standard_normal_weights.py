"""Weights drawn from a standard normal distribution, without regard to the width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB318"
LAYER = "0"
FIX = "kaiming_normal_"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a deep multilayer perceptron on a regression."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    width = 10
    for _depth in range(6):
        linear = nn.Linear(width, 64)
        if faulty:
            nn.init.normal_(linear.weight)
        else:
            nn.init.kaiming_normal_(linear.weight)
        layers += [linear, nn.ReLU()]
        width = 64
    model = nn.Sequential(*layers, nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with watch(model, optimizer=optimizer) as signal:
        for _step in range(40):
            x = torch.randn(64, 10)
            loss = F.mse_loss(model(x), x[:, :1].sin())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
