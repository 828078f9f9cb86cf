"""A linear recurrence with a spectral radius of 1.5 over 30 steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB318"
LAYER = "cell"
FIX = "clip_grad_norm_"


class Counter(nn.Module):
    """A recurrent network that sums its inputs."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.enter = nn.Linear(4, 16)
        self.cell = nn.Linear(16, 16, bias=False)
        self.head = nn.Linear(16, 1)
        nn.init.orthogonal_(self.cell.weight, gain=radius)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Read a sequence (N, T, 4)."""
        h = x.new_zeros(len(x), 16)
        for t in range(x.shape[1]):
            h = F.relu(self.cell(h) + self.enter(x[:, t]))
        return self.head(h)


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on sums."""
    torch.manual_seed(0)
    model = Counter(1.9 if faulty else 0.95)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with watch(model, optimizer=optimizer) as signal:
        for _step in range(30):
            x = torch.rand(32, 30, 4) / 30
            loss = F.mse_loss(model(x), x.sum((1, 2))[:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
