"""A siamese network: one encoder is called for both views, which have one distribution."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Siamese(nn.Module):
    """One encoder for two views of an example."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Linear(12, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 32, bias=False),
            nn.BatchNorm1d(32),
            nn.ReLU(),
            nn.Linear(32, 8),
        )

    def forward(self, pair: Tensor) -> Tensor:
        """Return the cosine similarities of all left views with all right ones."""
        left = F.normalize(self.encoder(pair[:, 0]), dim=1)
        right = F.normalize(self.encoder(pair[:, 1]), dim=1)
        return left @ right.T / 0.2


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Return the contrastive loss: each left view belongs to its own right one."""
    return F.cross_entropy(output, target)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = Siamese()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x = torch.randn(256, 12)
    pairs = torch.stack([x + 0.2 * torch.randn(256, 12), x + 0.2 * torch.randn(256, 12)], 1)
    own = torch.arange(32)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(256).split(32):
                loss = loss_of(model(pairs[batch]), own)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = [(each, own) for each in pairs.split(32)]
    return {"model": model, "batches": batches, "loss": loss_of, "optimizer": optimizer}
