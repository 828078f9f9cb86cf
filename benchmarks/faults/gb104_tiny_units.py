"""A network's first batch norm gets measurements in SI units: their variance is far below ε."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB104"
LAYER = "0"
FIX = "eps"


def build(faulty: bool) -> dict[str, Any]:
    """Train a regression on lengths in metres, or in millimetres."""
    torch.manual_seed(5)
    micro = torch.randn(512, 6)
    x = micro * (2e-4 if faulty else 0.2)
    y = micro[:, :1] - micro[:, 1:2] + 0.5 * torch.randn(512, 1)
    model = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _epoch in range(25):
        for batch in torch.randperm(512).split(64):
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batches = list(zip(x.split(64), y.split(64), strict=True))
    return {"model": model, "batches": batches, "loss": F.mse_loss}
