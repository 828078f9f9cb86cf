"""A helper around a functional batch norm has ``training=True`` as its default."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB110"
LAYER = "encoder"
FIX = "self.training"


def normalize(
    x: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, training: bool = True
) -> torch.Tensor:
    """Return x, normalized by the batch or by running statistics."""
    return F.batch_norm(x, mean, var, training=training)


class Encoder(nn.Module):
    """A linear layer and a norm without γ and β."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 12)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("var", torch.ones(12))
        self.faulty = faulty

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features."""
        y = self.linear(x)
        if self.faulty:
            return normalize(y, self.mean, self.var).tanh()
        return normalize(y, self.mean, self.var, self.training).tanh()


class Net(nn.Module):
    """An encoder and a head."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.encoder = Encoder(faulty)
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.encoder(x))  # type: ignore[no-any-return]


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Net(faulty)}
