"""Functional dropout after each convolution of a dense block, before the next layer's norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB209"
LAYER = "block.1.norm"
FIX = "dropout"


class Layer(nn.Module):
    """A layer of DenseNet: norm, ReLU, convolution, dropout."""

    def __init__(self, channels: int, growth: int, rate: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the input and the new features."""
        y = self.conv(F.relu(self.norm(x)))
        y = F.dropout(y, p=self.rate, training=self.training)
        return torch.cat([x, y], 1)


class DenseNet(nn.Module):
    """One dense block and a classifier."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.block = nn.Sequential(*(Layer(8 + 8 * i, 8, rate) for i in range(3)))
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Linear(32, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify."""
        x = F.relu(self.norm(self.block(self.stem(x))))
        return self.head(x.mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return a trained network."""
    torch.manual_seed(0)
    model = DenseNet(0.5 if faulty else 0.0)
    y = torch.randint(0, 3, (96,))
    x = torch.randn(96, 3, 6, 6) + 0.7 * torch.randn(3, 3, 6, 6)[y]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    for _epoch in range(15):
        for examples, labels in batches:
            loss = F.cross_entropy(model(examples), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "batches": batches, "loss": F.cross_entropy, "optimizer": optimizer}
