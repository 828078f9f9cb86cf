"""A third of the columns of a table never change, and a batch norm normalizes the inputs."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB215"
LAYER = "0"
FIX = "keep"


def build(faulty: bool) -> dict[str, Any]:
    """Return a perceptron that begins with a norm, and its table."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(24), nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2))
    x = torch.randn(256, 24)
    if faulty:
        x[:, 16:] = torch.arange(8.0)
    y = (x[:, 0] > 0).long()
    return {
        "model": model,
        "batches": list(zip(x.split(64), y.split(64), strict=True)),
        "loss": F.cross_entropy,
    }
