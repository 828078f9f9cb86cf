"""Weights are averaged at the end of training, but the statistics are those of the last model.

Izmailov et al. 2018, arXiv:1803.05407: after averaging, `update_bn` is needed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB201"
LAYER = "1"
FIX = "calibrate"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    centers = torch.randn(6, 12)
    y = torch.randint(6, (512,))
    x = 2 + centers[y] + 1.2 * torch.randn(512, 12)
    model = nn.Sequential(nn.Linear(12, 48), nn.BatchNorm1d(48), nn.ReLU())
    for _ in range(3):
        model.append(nn.Linear(48, 48)).append(nn.BatchNorm1d(48)).append(nn.ReLU())
    model.append(nn.Linear(48, 6))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for _epoch in range(10):
        for batch in torch.randperm(512).split(64):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        averaged.update_parameters(model)
    batches = [(x[batch], y[batch]) for batch in torch.randperm(512).split(64)]
    for mine, its in zip(model.parameters(), averaged.parameters(), strict=True):
        mine.data.copy_(its)
    if not faulty:
        torch.optim.swa_utils.update_bn(batches, model)
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
