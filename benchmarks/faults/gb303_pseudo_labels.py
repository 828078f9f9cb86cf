"""Pseudo-labels of unlabeled data come from the model in training mode, under no_grad()."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB303"
LAYER = ""
FIX = "eval()"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Learn from labeled data, and from the model's own labels of unlabeled data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(25):
            x, unlabeled = torch.randn(32, 10), torch.randn(32, 10) + 0.5
            if not faulty:
                model.eval()
            with torch.no_grad():
                labels = model(unlabeled).argmax(1)
            model.train()
            out = model(torch.cat([x, unlabeled]))
            loss = F.cross_entropy(out, torch.cat([(x[:, 0] > 0).long(), labels]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
