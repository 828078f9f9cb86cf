"""A checkpoint was written after the training had diverged: one layer's weights are NaN."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB216"
LAYER = "features.3"
FIX = "load_state_dict"


class Net(nn.Module):
    """A convolutional network."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        return self.head(self.features(x).mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the network with weights from the checkpoint."""
    torch.manual_seed(0)
    model = Net()
    if faulty:
        with torch.no_grad():
            model.features[3].weight[2] = float("nan")
    batches = [(torch.randn(8, 3, 12, 12), torch.randint(0, 10, (8,))) for _ in range(3)]
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
