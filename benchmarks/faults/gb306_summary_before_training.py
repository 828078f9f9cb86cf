"""The model is called with zeros to print its output shape, before training, in training mode."""

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
    """Train a segmentation network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 2, 3, padding=1),
    )
    if not faulty:
        model.eval()
    with torch.no_grad():
        model(torch.zeros(2, 3, 16, 16))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(15):
            x = torch.randn(4, 3, 16, 16)
            loss = F.cross_entropy(model(x), (x.mean(1) > 0).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
