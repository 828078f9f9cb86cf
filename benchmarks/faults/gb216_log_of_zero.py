"""The network takes the logarithm of counts, some of which are zero."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB216"
LAYER = ""
FIX = "clamp"


class Counts(nn.Module):
    """A network for counts."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        self.body = nn.Sequential(nn.Linear(10, 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.body(torch.log(x + self.offset))


def build(faulty: bool) -> dict[str, Any]:
    """Return the network and counts."""
    torch.manual_seed(0)
    model = Counts(0.0 if faulty else 1.0)
    batches = [(torch.poisson(torch.ones(32, 10)), torch.randint(0, 3, (32,))) for _ in range(3)]
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
