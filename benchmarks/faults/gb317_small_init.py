"""A convolutional network without norms, initialized with a standard deviation of 0.01."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB317"
LAYER = "0"
FIX = "BatchNorm"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a VGG-like network."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    channels = 3
    for width in (16, 16, 32, 32, 32, 32):
        conv = nn.Conv2d(channels, width, 3, padding=1)
        if faulty:
            nn.init.normal_(conv.weight, std=0.01)
        else:
            nn.init.kaiming_normal_(conv.weight)
        layers += [conv, nn.ReLU()]
        channels = width
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    x = torch.randn(128, 3, 8, 8)
    y = torch.randint(0, 4, (128,))
    x += torch.randn(4, 3, 8, 8)[y]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(128).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
