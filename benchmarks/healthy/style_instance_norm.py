"""A style network with instance norm: convolution, residual blocks, upsampling, at batch 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """Two convolutions, each with instance norm, and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width, affine=True),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(width, width, 3),
            nn.InstanceNorm2d(width, affine=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        return x + self.body(x)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train to restore colours, and return what is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5, padding=2),
        nn.InstanceNorm2d(8, affine=True),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1),
        nn.InstanceNorm2d(16, affine=True),
        nn.ReLU(),
        Residual(16),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(16, 3, 3, padding=1),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.rand(32, 3, 24, 24)
    y = F.avg_pool2d(x, 3, 1, 1).flip(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(3):
            for batch in torch.randperm(32).split(2):
                loss = F.mse_loss(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(2), y.split(2), strict=True))
    return {"model": model, "batches": batches, "loss": F.mse_loss, "optimizer": optimizer}
