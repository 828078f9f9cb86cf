"""Inputs in hundreds enter a tanh: every unit of the first layer is saturated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB319"
LAYER = "encoder.0"
FIX = "norm"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train an autoencoder of sensor readings."""
    torch.manual_seed(0)
    model = nn.Module()
    model.encoder = nn.Sequential(nn.Linear(12, 32), nn.Tanh(), nn.Linear(32, 4))
    model.decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 12))
    model.forward = lambda x: model.decoder(model.encoder(x))
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    with watch(model, optimizer=optimizer) as signal:
        for _step in range(60):
            readings = 900.0 + 300.0 * torch.randn(64, 1) * torch.ones(1, 12)
            readings += 20.0 * torch.randn(64, 12)
            x = readings if faulty else (readings - 900.0) / 300.0
            loss = F.mse_loss(model(x), (readings - 900.0) / 300.0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
