"""A U-Net with group norm that is trained at batch 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inputs: int, outputs: int) -> nn.Sequential:
    """Return a convolution, group norm and SiLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(4, outputs), nn.SiLU()
    )


class UNet(nn.Module):
    """Two resolutions, with a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = block(1, 8), block(8, 16), block(24, 8)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return one logit a pixel."""
        skip = self.down(x)
        low = self.middle(F.max_pool2d(skip, 2))
        return self.head(self.up(torch.cat([F.interpolate(low, scale_factor=2), skip], 1)))


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(24, 1, 24, 24)
    x = F.avg_pool2d(x, 5, 1, 2) * 5
    y = (x > 0.5).float()
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(3):
            for picture in torch.randperm(24).split(1):
                loss = F.binary_cross_entropy_with_logits(model(x[picture]), y[picture])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(1), y.split(1), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.binary_cross_entropy_with_logits,
        "optimizer": optimizer,
    }
