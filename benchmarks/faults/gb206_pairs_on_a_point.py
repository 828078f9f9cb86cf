"""Batches of two, and a last feature map of one pixel: outputs of the norm are ±1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB206"
LAYER = "7"
FIX = "batch_size"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 4, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    size = 2 if faulty else 16
    x, y = torch.randn(4, size, 3, 32, 32), torch.randint(5, (4, size))
    return {"model": model, "batches": list(zip(x, y, strict=True)), "loss": F.cross_entropy}
