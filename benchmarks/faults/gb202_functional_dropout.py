"""``F.dropout`` is called without ``training=``, so that it drops in evaluation, too.

Documentation of `torch.nn.functional.dropout`: the default is ``training=True``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB202"
LAYER = "block"
FIX = "training"


class Block(nn.Module):
    """A residual block of a tabular net."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        """Return x plus what the block adds."""
        h = self.up(self.norm(x)).relu()
        h = F.dropout(h, 0.3) if self.faulty else F.dropout(h, 0.3, self.training)
        return x + self.down(h)


class Tabular(nn.Module):
    """A net for rows of a table."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.embed, self.block, self.head = nn.Linear(10, 16), Block(faulty), nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return a prediction for each row."""
        return self.head(self.block(self.embed(x)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    x, y = torch.randn(3, 16, 10), torch.randn(3, 16, 1)
    model = Tabular(faulty)
    return {"model": model, "batches": list(zip(x, y, strict=True)), "loss": F.mse_loss}
