"""Momentum 0.99 copied from Keras, where it is the share of the old value."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB103"
LAYER = "1"
FIX = "momentum"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    momentum = 0.99 if faulty else 0.01
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, bias=False),
        nn.BatchNorm2d(16, momentum=momentum),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    return {"model": model}
