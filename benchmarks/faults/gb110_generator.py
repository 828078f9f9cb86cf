"""A generator calls functional batch norm without running statistics."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB110"
LAYER = ""
FIX = "running_mean"


class Generator(nn.Module):
    """Images from noise."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.project = nn.Linear(16, 8 * 4 * 4)
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))
        self.faulty = faulty

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return (N, 3, 8, 8)."""
        x = self.project(z).view(-1, 8, 4, 4)
        if self.faulty:
            x = F.batch_norm(x, None, None, training=True)
        else:
            x = F.batch_norm(x, self.running_mean, self.running_var, training=self.training)
        return torch.tanh(self.up(F.leaky_relu(x, 0.2)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Generator(faulty)}
