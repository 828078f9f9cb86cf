"""The training accuracy is logged from a second forward pass in each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB304"
LAYER = ""
FIX = "eval()"


class Recurrent(nn.Module):
    """A GRU with batch norm over features."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(4, 16, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify sequences."""
        return self.head(self.norm(self.rnn(x)[0][:, -1]))


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train, and log the accuracy."""
    torch.manual_seed(0)
    model = Recurrent()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    accuracy = 0.0
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(25):
            x = torch.randn(32, 6, 4)
            y = (x[:, -1, 0] > 0).long()
            output = model(x)
            loss = F.cross_entropy(output, y)
            if faulty:
                output = model(x)
            accuracy += float((output.argmax(1) == y).float().mean())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
