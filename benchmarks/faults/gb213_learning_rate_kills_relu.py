"""The first steps use a learning rate that is far too high, and the hidden layer dies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB213"
LAYER = "0"
FIX = "learning rate"


def build(faulty: bool) -> dict[str, Any]:
    """Train a regression network with a rate of 2, or of 0.005."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 1), nn.Flatten(0))
    x = torch.rand(256, 8)
    y = x.sum(1) - 4
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0 if faulty else 0.005)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    for _epoch in range(5):
        for examples, targets in batches:
            loss = F.smooth_l1_loss(model(examples), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "batches": batches, "loss": F.smooth_l1_loss, "optimizer": optimizer}
