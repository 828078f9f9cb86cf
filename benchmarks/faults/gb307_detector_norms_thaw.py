"""Only the batch norms are put into eval() mode once; the next epoch's train() ends that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB307"
LAYER = "1"
FIX = "freeze"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Fine-tune with small batches and fixed batch norms."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(4, 16, 3), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 2, 3), nn.Flatten(2)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    model[1].eval()
    with watch(model, optimizer=optimizer) as signal:
        for epoch in range(3):
            if faulty and epoch:
                model.train()
            for _ in range(6):
                x = torch.randn(4, 4, 20)
                loss = F.cross_entropy(model(x).mean(2), (x[:, 0].mean(1) > 0).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
