"""``nn.init.normal_`` with its default standard deviation of 1 saturates a wide sigmoid network."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB214"
LAYER = "2"
FIX = "normalize"


def build(faulty: bool) -> dict[str, Any]:
    """Return the network and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(32, 512),
        nn.Sigmoid(),
        nn.Linear(512, 256),
        nn.Sigmoid(),
        nn.Linear(256, 2),
    )
    if faulty:
        for layer in (model[0], model[2], model[4]):
            nn.init.normal_(layer.weight)
    batches = [(torch.randn(16, 32), torch.randint(0, 2, (16,))) for _ in range(3)]
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
