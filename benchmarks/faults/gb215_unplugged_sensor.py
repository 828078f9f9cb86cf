"""Half of the sensors are unplugged and report a constant, and each has convolutions of its own."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB215"
LAYER = "features.1"
FIX = "mend"


class Net(nn.Module):
    """Classifies signals of eight sensors."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(8, 32, 7, groups=8, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Conv1d(32, 32, 7, bias=False),
            nn.GroupNorm(4, 32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.head(self.features(x).mean(2))


def build(faulty: bool) -> dict[str, Any]:
    """Return the network and its signals."""
    torch.manual_seed(0)
    signals = [torch.randn(16, 8, 64) for _ in range(4)]
    if faulty:
        for x in signals:
            x[:, 4:] = 2.5
    batches = [(x, torch.randint(0, 4, (16,))) for x in signals]
    return {"model": Net(), "batches": batches, "loss": F.cross_entropy}
