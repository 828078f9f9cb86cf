"""Pixels from 0 to 255 go into a tanh layer without being normalized."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB214"
LAYER = "fc1"
FIX = "BatchNorm1d"


class Net(nn.Module):
    """A perceptron with tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(64, 48)
        self.fc2 = nn.Linear(48, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify pictures of shape (N, 1, 8, 8)."""
        return self.fc2(torch.tanh(self.fc1(x.flatten(1))))


def build(faulty: bool) -> dict[str, Any]:
    """Return the network, and pictures of 0 to 255 or of mean 0 and variance 1."""
    torch.manual_seed(0)
    batches = []
    for _ in range(4):
        pixels = torch.randint(0, 256, (32, 1, 8, 8)).float()
        x = pixels if faulty else (pixels - 127.5) / 74
        batches.append((x, torch.randint(0, 10, (32,))))
    return {"model": Net(), "batches": batches, "loss": F.cross_entropy}
