"""The head is replaced after the optimizer was made, which still updates the old one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB320"
LAYER = "3"
FIX = "add_param_group"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Fine-tune a network on another number of classes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 10))
    if not faulty:
        model[3] = nn.Linear(32, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if faulty:
        model[3] = nn.Linear(32, 3)
    x = torch.randn(256, 10)
    y = x[:, :3].argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(4):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
