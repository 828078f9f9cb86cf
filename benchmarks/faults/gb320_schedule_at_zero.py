"""A schedule by epochs that divides two integers: the learning rate is 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB320"
LAYER = ""
FIX = "lr"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a segmentation network with a warm-up."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 1, 1)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    warm_up = 100

    def factor(step: int) -> float:
        share = step // warm_up if faulty else step / warm_up
        return min(1.0, share)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    with watch(model, optimizer=optimizer) as signal:
        for _step in range(60):
            x = torch.rand(4, 1, 16, 16)
            loss = F.binary_cross_entropy_with_logits(model(x), (x > 0.5).float())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            signal.step(loss=loss)
