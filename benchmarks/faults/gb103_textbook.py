"""A batch norm written by hand, with TensorFlow's names and momentum, but PyTorch's update."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB103"
LAYER = "1"
FIX = "momentum = 0.01"


class BatchNorm(nn.Module):
    """Normalizes images by channel."""

    def __init__(self, channels: int, momentum: float) -> None:
        super().__init__()
        shape = (1, channels, 1, 1)
        self.gamma, self.beta = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.zeros(shape))
        self.momentum = momentum
        self.register_buffer("moving_mean", torch.zeros(shape))
        self.register_buffer("moving_var", torch.ones(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the normalized x."""
        mean, var = self.moving_mean, self.moving_var
        if self.training:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = (x - mean).square().mean((0, 2, 3), keepdim=True)
            with torch.no_grad():
                self.moving_mean.lerp_(mean, self.momentum)
                self.moving_var.lerp_(var, self.momentum)
        return self.gamma * (x - mean) / torch.sqrt(var + 1e-5) + self.beta


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    norm = BatchNorm(6, 0.99 if faulty else 0.01)
    return {"model": nn.Sequential(nn.Conv2d(1, 6, 5), norm, nn.Sigmoid(), nn.AvgPool2d(2))}
