"""A model is traced by ``torch.jit.trace`` in training mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB402"
LAYER = "1"
FIX = "eval()"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 2),
    )
    model.train(faulty)
    traced = torch.jit.trace(model, torch.randn(4, 3, 8, 8), check_trace=False)
    return {"model": traced.eval()}
