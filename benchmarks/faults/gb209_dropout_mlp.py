"""Dropout in front of the linear layer whose output a batch norm normalizes (Li et al. 2018)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB209"
LAYER = "norm2"
FIX = "dropout"


class Net(nn.Module):
    """A perceptron with two batch norms."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(20, 128)
        self.norm1 = nn.BatchNorm1d(128)
        self.drop = nn.Dropout(p)
        self.fc2 = nn.Linear(128, 64)
        self.norm2 = nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = self.drop(F.relu(self.norm1(self.fc1(x))))
        return self.out(F.relu(self.norm2(self.fc2(x))))


def build(faulty: bool) -> dict[str, Any]:
    """Train for a few epochs with dropout, or without it."""
    torch.manual_seed(0)
    model = Net(0.7 if faulty else 0.0)
    x = torch.randn(512, 20)
    y = (2 * (x[:, 0] > 0) + (x[:, 1] * x[:, 2] > 0)).long()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    for _epoch in range(15):
        for examples, labels in batches:
            loss = F.cross_entropy(model(examples), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "batches": batches, "loss": F.cross_entropy, "optimizer": optimizer}
