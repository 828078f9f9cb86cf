"""A functional batch norm with ``training=True`` in a residual block."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB110"
LAYER = "block"
FIX = "self.training"


class Block(nn.Module):
    """A residual block that keeps γ, β and statistics itself."""

    def __init__(self, channels: int, faulty: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.faulty = faulty

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x plus its residual."""
        y = self.conv(x)
        if self.faulty:
            y = F.batch_norm(y, self.mean, self.var, self.weight, self.bias, training=True)
        else:
            y = F.batch_norm(y, self.mean, self.var, self.weight, self.bias, self.training)
        return x + y.relu()


class Net(nn.Module):
    """One block and a head."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.block = Block(3, faulty)
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.block(x).mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(5, (8,))) for _ in range(4)]
    model = Net(faulty)
    for x, _ in batches * 20:
        model(x)
    return {"model": model.eval(), "batches": batches, "loss": F.cross_entropy}
