"""A discriminator gets real and generated examples in one batch (ganhacks, item 4)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB210"
LAYER = "1"
FIX = "chunk"


def build(faulty: bool) -> dict[str, Any]:
    """Return a discriminator with its batches: mixed in one, or each of its own kind."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(16, 32),
        nn.BatchNorm1d(32),
        nn.LeakyReLU(0.2),
        nn.Linear(32, 1),
        nn.Flatten(0),
    )
    generator = nn.Sequential(nn.Linear(4, 16), nn.Tanh())
    batches = []
    for _ in range(6):
        real = torch.randn(32, 16) + 2
        with torch.no_grad():
            fake = generator(torch.randn(32, 4))
        if faulty:
            batches.append((torch.cat([real, fake]), torch.cat([torch.ones(32), torch.zeros(32)])))
        else:
            batches.append((real, torch.ones(32)))
    return {"model": model, "batches": batches, "loss": F.binary_cross_entropy_with_logits}
