"""Weights of a pooling are normalized over dim 0, which is the batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB203"
LAYER = "pool"
FIX = "softmax"


class Pool(nn.Module):
    """Attention pooling over time."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.dim, self.score = 0 if faulty else 1, nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, L, C) to (N, C)."""
        return (self.score(x).softmax(self.dim) * x).sum(1)


class Recurrent(nn.Module):
    """A recurrent net with attention pooling."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 12, batch_first=True)
        self.norm = nn.LayerNorm(12)
        self.pool, self.head = Pool(faulty), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.pool(self.norm(self.rnn(x)[0])))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    x, y = torch.randn(3, 16, 7, 5), torch.randint(2, (3, 16))
    model = Recurrent(faulty)
    return {"model": model, "batches": list(zip(x, y, strict=True)), "loss": F.cross_entropy}
