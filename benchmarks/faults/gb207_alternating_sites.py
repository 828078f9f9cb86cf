"""Batches come from two sites in turn, whose instruments have other scales and offsets."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB207"
LAYER = "net.1"
FIX = "shuffle=True"


class Regressor(nn.Module):
    """A net on measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a prediction for each row."""
        return self.net(x)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    x = torch.randn(2, 128, 10)
    y = x[..., :1] - x[..., 1:2]
    x[1] = 1.5 * x[1] + 1
    order = torch.arange(256).view(2, 4, 32).transpose(0, 1).reshape(8, 32)  # site 0, 1, 0, 1, …
    if not faulty:
        order = torch.randperm(256).view(8, 32)
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    batches = [(x[batch], y[batch]) for batch in order]
    return {"model": Regressor(), "batches": batches, "loss": F.mse_loss}
