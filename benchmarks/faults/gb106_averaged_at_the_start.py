"""An average of the weights follows the parameters only; its buffers are those it was made with."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB106"
LAYER = "2"
FIX = "calibrate"


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, buffers: bool) -> None:
    """Let ``average`` follow ``model``."""
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 0.1)
    if buffers:
        for slow, fast in zip(average.buffers(), model.buffers(), strict=True):
            slow.copy_(fast)


def build(faulty: bool) -> dict[str, Any]:
    """Train a classifier of sequences and average it."""
    torch.manual_seed(9)
    model = nn.Sequential(
        nn.Conv1d(4, 16, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.Conv1d(16, 16, 3, padding=1),
        nn.ReLU(),
        nn.BatchNorm1d(16),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 2),
    )
    average = deepcopy(model).eval()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    y = torch.randint(2, (256,))
    x = torch.randn(256, 4, 20) + y[:, None, None]
    for _epoch in range(5):
        for batch in torch.randperm(256).split(32):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update(average, model, buffers=not faulty)
    return {"model": average}
