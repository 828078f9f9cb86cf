"""Gradient checkpointing around the blocks without norms; the stem's batch norm is outside."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class Model(nn.Module):
    """A stem with batch norm, then residual feed-forward blocks that are recomputed."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(16, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU())
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)) for _ in range(3)
        )
        self.head = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.head(x)


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    x = torch.randn(256, 16)
    y = (x @ torch.randn(16, 4)).argmax(1)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(256).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
