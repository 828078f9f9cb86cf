"""Learning rates that decay by 0.1 a layer instead of 0.9: the first layers stand still."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB320"
LAYER = "0"
FIX = "lr"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Fine-tune with one parameter group for each layer."""
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.LayerNorm(24), nn.Linear(24, 24), nn.GELU()) for _ in range(10)]
    model = nn.Sequential(nn.Linear(12, 24), *blocks, nn.Linear(24, 4))
    decay = 0.1 if faulty else 0.9
    depth = len(model) - 1
    groups = [
        {"params": layer.parameters(), "lr": 3e-3 * decay ** (depth - i)}
        for i, layer in enumerate(model)
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    x = torch.randn(256, 12)
    y = x[:, :4].argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
