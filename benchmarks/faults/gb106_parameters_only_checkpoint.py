"""A checkpoint of parameters only is loaded with ``strict=False``: the buffers are missing."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB106"
LAYER = "1"
FIX = "calibrate"


def network() -> nn.Sequential:
    """Return a convolutional classifier."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def build(faulty: bool) -> dict[str, Any]:
    """Train, save, load."""
    torch.manual_seed(8)
    model = network()
    y = torch.randint(3, (256,))
    x = 5 + 2 * torch.randn(256, 1, 12, 12) * (1 + y[:, None, None, None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _epoch in range(6):
        for batch in torch.randperm(256).split(32):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    state = dict(model.named_parameters()) if faulty else model.state_dict()
    loaded = network()
    loaded.load_state_dict(state, strict=False)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {"model": loaded.eval(), "batches": batches, "loss": F.cross_entropy}
