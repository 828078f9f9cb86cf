"""A tensor is cut into batches by hand and one example is left over, behind a global pooling."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB211"
LAYER = "6"
FIX = "batches"


def build(faulty: bool) -> dict[str, Any]:
    """Return a convolutional network with a norm behind the pooling, and a list of batches."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 24, bias=False),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Linear(24, 5),
    )
    x, y = torch.randn(97, 3, 12, 12), torch.randint(0, 5, (97,))
    if not faulty:
        x, y = x[:96], y[:96]
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
