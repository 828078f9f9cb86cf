"""Stochastic weight averaging without update_bn() before the evaluation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

CODE = "GB309"
LAYER = ""
FIX = "update_bn"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train, and average the weights of the last epochs."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)
    )
    averaged = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(64, 1, 8, 8)
    y = (x.mean((1, 2, 3)) > 0).long()
    with watch(model, optimizer=optimizer) as signal:
        for epoch in range(8):
            for batch in torch.randperm(64).split(16):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            if epoch > 3:
                averaged.update_parameters(model)
        if not faulty:
            update_bn(x.split(16), averaged)
        averaged.eval()
        with torch.no_grad():
            averaged(x)
