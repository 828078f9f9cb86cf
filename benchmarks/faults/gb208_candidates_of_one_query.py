"""A batch holds all candidates of one query, one of which is right.

Batch norm tells each candidate how the others score (Wu & Johnson 2021, arXiv:2105.07576, on the
leakage of information in a mini-batch)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB208"
LAYER = "1"
FIX = "shuffle"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32, bias=False)
    )
    model.append(nn.BatchNorm1d(32)).append(nn.ReLU()).append(nn.Linear(32, 2))
    x, y = _queries(80)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _epoch in range(3):
        for batch in _order(faulty):
            loss = F.cross_entropy(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batches = [(x[batch], y[batch]) for batch in _order(faulty)[:8]]
    return {"model": model, "batches": batches, "loss": F.cross_entropy}


def _order(faulty: bool) -> Tensor:
    if faulty:
        return torch.randperm(80)[:, None] * 32 + torch.arange(32)
    return torch.randperm(80 * 32).view(80, 32)


def _queries(number: int) -> tuple[Tensor, Tensor]:
    """Return candidates, 32 a query, half of which are right: they score above their query."""
    y = torch.arange(32).remainder(2).repeat(number, 1)
    offset = 6 * torch.randn(number, 1, 12)
    x = offset + 0.5 * torch.randn(number, 32, 12) + (y - 0.5)[..., None]
    return x.flatten(0, 1), y.flatten()
