"""One batch with a NaN goes through a recurrent model's batch norm, whose averages keep it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CODE = "GB107"
LAYER = "norm"
FIX = "calibrate"


class Tagger(nn.Module):
    """A normalized input, a GRU and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.gru = nn.GRU(6, 16, batch_first=True)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for each step of a sequence (N, L, 6)."""
        x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        return self.out(self.gru(x)[0])


def build(faulty: bool) -> dict[str, Any]:
    """Run batches, one of which has a missing value."""
    torch.manual_seed(10)
    model = Tagger()
    with torch.no_grad():
        for step in range(30):
            x = torch.randn(8, 12, 6)
            if faulty and step == 11:
                x[0, 3, 2] = float("nan")
            model(x)
    return {"model": model}
