"""A generator's norms keep no running statistics, so that an image depends on its batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB203"
LAYER = "1"
FIX = "track_running_stats"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(8, 16, 4, bias=False),
        nn.BatchNorm2d(16, track_running_stats=not faulty),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8, track_running_stats=not faulty),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 3, 4, 2, 1),
        nn.Tanh(),
    )
    return {"model": model, "batches": list(torch.randn(3, 16, 8, 1, 1))}
