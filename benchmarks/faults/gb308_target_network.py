"""A target network in reinforcement learning follows the parameters only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB308"
LAYER = ""
FIX = "buffers"


class Values(nn.Module):
    """Action values of states."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 32), nn.BatchNorm1d(32), nn.ReLU())
        self.head = nn.Linear(32, 2)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return values (N, actions)."""
        return self.head(self.body(states))


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Deep Q-learning on made-up transitions."""
    torch.manual_seed(0)
    online, target = Values(), Values()
    target.load_state_dict(online.state_dict())
    target.eval()
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3)
    with watch(online, optimizer=optimizer) as signal:
        for _ in range(40):
            states, following = 3 * torch.randn(32, 4) + 1, 3 * torch.randn(32, 4) + 1
            actions = torch.randint(0, 2, (32, 1))
            with torch.no_grad():
                best = target(following).max(1).values
            value = online(states).gather(1, actions)[:, 0]
            loss = F.smooth_l1_loss(value, states[:, 0] + 0.9 * best)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            for a, p in zip(target.parameters(), online.parameters(), strict=True):
                a.data.mul_(0.95).add_(p.data, alpha=0.05)
            if not faulty:
                for a, b in zip(target.buffers(), online.buffers(), strict=True):
                    a.data.copy_(b)
            signal.step(loss=loss)
