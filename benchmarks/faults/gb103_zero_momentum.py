"""Momentum 0, meant to freeze the statistics, in a siamese network: they stay at 0 and 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB103"
LAYER = "tower.1"
FIX = "momentum"


class Siamese(nn.Module):
    """One tower for two inputs; its output is their distance."""

    def __init__(self, momentum: float) -> None:
        super().__init__()
        self.tower = nn.Sequential(
            nn.Conv1d(2, 16, 5, padding=2, bias=False),
            nn.BatchNorm1d(16, momentum=momentum),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
            nn.Linear(16, 8),
        )

    def forward(self, pair: Tensor) -> Tensor:
        """Return the distance of the two halves of the channels."""
        a, b = pair.chunk(2, 1)
        both = self.tower(torch.cat([a, b]))
        a, b = both.chunk(2)
        return (a - b).square().sum(1)


def build(faulty: bool) -> dict[str, Any]:
    """Train with pairs that are alike or not."""
    torch.manual_seed(3)
    model = Siamese(0.0 if faulty else 0.1)
    a = 2 * torch.randn(256, 2, 24) + 1
    same = torch.rand(256) < 0.5
    b = torch.where(same[:, None, None], a + 0.1 * torch.randn_like(a), a.roll(1, 0))
    x, y = torch.cat([a, b], 1), same.float()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _epoch in range(6):
        for batch in torch.randperm(256).split(32):
            loss = F.mse_loss(torch.exp(-model(x[batch])), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "optimizer": optimizer}
