"""One batch norm for all time steps of a recurrent network (Cooijmans et al. 2017)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB210"
LAYER = "norm"
FIX = "ModuleList"


class Recurrent(nn.Module):
    """A recurrent network that normalizes its state."""

    def __init__(self, steps: int, shared: bool) -> None:
        super().__init__()
        self.steps, self.shared = steps, shared
        self.input = nn.Linear(4, 32)
        self.state = nn.Linear(32, 32, bias=False)
        if shared:
            self.norm = nn.BatchNorm1d(32)
        else:
            self.norms = nn.ModuleList(nn.BatchNorm1d(32) for _ in range(steps))
        self.out = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify sequences of shape (N, T, 4)."""
        total = torch.zeros(x.shape[0], 32)
        for t in range(self.steps):
            total = total + self.input(x[:, t]) + torch.tanh(self.state(total))
            norm = self.norm if self.shared else self.norms[t]
            total = total + norm(total).relu()
        return self.out(total)


def build(faulty: bool) -> dict[str, Any]:
    """Return the network and its sequences."""
    torch.manual_seed(0)
    model = Recurrent(5, shared=faulty)
    x = torch.randn(256, 5, 4)
    y = (x.sum((1, 2)) > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = list(zip(x.split(64), y.split(64), strict=True))
    for _epoch in range(15):
        for sequences, labels in batches:
            loss = F.cross_entropy(model(sequences), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "batches": batches, "loss": F.cross_entropy, "optimizer": optimizer}
