"""A network is fitted to eight examples at once: evaluation divides by a larger variance."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB212"
LAYER = "norm1"
FIX = "running_var"


class Net(nn.Module):
    """A small regression network."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(6, 64)
        self.norm1 = nn.BatchNorm1d(64)
        self.fc2 = nn.Linear(64, 64)
        self.norm2 = nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Predict."""
        x = torch.tanh(self.norm1(self.fc1(x)))
        return self.out(torch.tanh(self.norm2(self.fc2(x)))).flatten()


def build(faulty: bool) -> dict[str, Any]:
    """Fit the network to a data set of 8 examples, or of 512."""
    torch.manual_seed(0)
    model = Net()
    size = 8 if faulty else 512
    x = torch.randn(size, 6)
    y = x[:, 0] + x[:, 1] * x[:, 2]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 120)
    for _step in range(120):
        loss = F.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return {"model": model, "batches": [(x, y)], "loss": F.mse_loss, "optimizer": optimizer}
