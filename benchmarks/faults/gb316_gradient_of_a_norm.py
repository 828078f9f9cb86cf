"""The gradient of a square root at 0: a siamese pair of equal inputs destroys the weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB316"
LAYER = "2"
FIX = "detect_anomaly"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train an embedding by a contrastive loss."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with watch(model, optimizer=optimizer) as signal:
        for step in range(40):
            a = torch.randn(32, 10)
            b = a + 0.1 * torch.randn(32, 10)
            if step == 17:
                b[3] = a[3]
            both = model(torch.cat([a, b]))
            gap = (both[:32] - both[32:]).square().sum(1)
            near = (gap if faulty else gap + 1e-8).sqrt()
            far = (both[:32] - both[32:].roll(1, 0)).square().sum(1).add(1e-8).sqrt()
            loss = near.mean() + F.relu(1.0 - far).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
