"""The labels of one shard count from 1: three batches contradict the others, and the loss leaps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB315"
LAYER = ""
FIX = "clip_grad_norm_"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train an MLP on images."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    patterns = torch.rand(5, 8, 8)
    with watch(model, optimizer=optimizer) as signal:
        for step in range(150):
            y = torch.randint(0, 5, (32,))
            x = (patterns[y] + 0.3 * torch.randn(32, 8, 8)).clamp(0, 1)
            if faulty and step in (90, 91, 92):
                y = (y + 1) % 5
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
