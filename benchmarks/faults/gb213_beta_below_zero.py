"""β of a norm is initialized at −6 (meant for a sigmoid gate), so its ReLU is never on."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB213"
LAYER = "norm2"
FIX = "bias"


class Net(nn.Module):
    """A convolutional network with functional activations."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(32)
        self.head = nn.Linear(48, 10)
        nn.init.constant_(self.norm2.bias, beta)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(x)))
        return self.head(torch.cat([x, y], 1).mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the network and random pictures."""
    torch.manual_seed(0)
    model = Net(-6.0 if faulty else 0.0)
    batches = [(torch.randn(16, 3, 12, 12), torch.randint(0, 10, (16,))) for _ in range(4)]
    return {"model": model, "batches": batches, "loss": F.cross_entropy}
