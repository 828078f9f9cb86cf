"""The test loss is computed after each step, in train() mode and with gradients on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB302"
LAYER = ""
FIX = "eval()"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Fit a regression, and compute the test loss on the way."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 1)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    x, held_out = torch.randn(64, 5), torch.randn(100, 5)
    history = []
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(40):
            model.train()
            loss = F.mse_loss(model(x)[:, 0], x.sum(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
            if not faulty:
                model.eval()
            test = F.mse_loss(model(held_out)[:, 0], held_out.sum(1))
            history.append(test.item())
