"""Stochastic weight averaging, with `update_bn` before the average is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, average, update the statistics, and return the average, which is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 48, bias=False),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Linear(48, 48, bias=False),
        nn.BatchNorm1d(48),
        nn.ReLU(),
        nn.Linear(48, 3),
    )
    average = AveragedModel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(256, 12)
    y = (x @ torch.randn(12, 3)).argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for epoch in range(8):
            model.train()
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            if epoch >= 4:
                average.update_parameters(model)
    update_bn(x.split(32), average)
    average.eval()
    with torch.no_grad():
        average(x)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {"model": average, "batches": batches, "loss": F.cross_entropy}
