"""A language model with RMS norm, gated feed-forward networks and no biases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Causal attention and a gated network, each behind an RMS norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.out = (nn.Linear(width, n * width, bias=False) for n in (3, 1))
        self.gate, self.up = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        heads = (part.unflatten(-1, (4, -1)) for part in self.qkv(self.norm1(x)).chunk(3, -1))
        q, k, v = (part.transpose(1, 2) for part in heads)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of all words."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Embedding(24, 32),
        Block(32),
        Block(32),
        nn.RMSNorm(32),
        nn.Linear(32, 24, bias=False),
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    words = (torch.randint(0, 24, (64, 1)) + 5 * torch.arange(17)) % 24
    x, y = words[:, :-1], words[:, 1:]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(64).split(16):
                loss = loss_of(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {"model": model, "batches": batches, "loss": loss_of, "optimizer": optimizer}
