"""A generator is converted to bfloat16 with its batch norms, whose averages round updates away."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB105"
LAYER = "1"
FIX = "float()"


def build(faulty: bool) -> dict[str, Any]:
    """Run a generator in bfloat16 on noise."""
    torch.manual_seed(6)
    model = nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4, bias=False),
        nn.BatchNorm2d(32, momentum=0.01),
        nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16, momentum=0.01),
        nn.ReLU(),
        nn.Conv2d(16, 1, 3, padding=1),
        nn.Tanh(),
    ).bfloat16()
    if not faulty:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.float()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(16, 16, 1, 1, dtype=torch.bfloat16))
    return {"model": model}
