"""A densely connected network: every layer normalizes the features of all layers before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Dense(nn.Module):
    """Norm, ReLU, convolution; the output is joined to the input."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.conv = nn.Conv2d(inputs, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the joined features."""
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        *(Dense(8 + 6 * i, 6) for i in range(3)),
        nn.BatchNorm2d(26),
        nn.ReLU(),
        nn.Conv2d(26, 13, 1, bias=False),
        nn.AvgPool2d(2),
        *(Dense(13 + 6 * i, 6) for i in range(2)),
        nn.BatchNorm2d(25),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(25, 4),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    y = torch.randint(0, 4, (96,))
    x = torch.randn(96, 3, 12, 12) * 0.5 + F.one_hot(y, 4)[:, :3, None, None]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(96).split(16):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
