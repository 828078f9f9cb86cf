"""A pre-LN transformer with biases everywhere and ε 1e-12, as in BERT's configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Attention and a feed-forward network, each behind a layer norm."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.attention = nn.MultiheadAttention(width, 4, dropout=0.1, batch_first=True)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.norm1(x)
        x = x + self.dropout(self.attention(y, y, y, need_weights=False)[0])
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))


class Model(nn.Module):
    """Predicts the next word."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(20, 32), nn.Embedding(16, 32)
        self.blocks = nn.Sequential(Block(32), Block(32))
        self.norm, self.head = nn.LayerNorm(32, eps=1e-12), nn.Linear(32, 20)

    def forward(self, words: Tensor) -> Tensor:
        """Return logits by word."""
        x = self.words(words) + self.places.weight[: words.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def loss_of(output: Tensor, target: Tensor) -> Tensor:
    """Return the mean cross-entropy of all words."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten())


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train with a warm-up and clipped gradients, and return what is examined."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    warmup = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 10))
    first = torch.randint(0, 20, (64, 1))
    words = (first + torch.arange(17)) % 20
    x, y = words[:, :-1], words[:, 1:]
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            model.train()
            for batch in torch.randperm(64).split(16):
                loss = loss_of(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                warmup.step()
                signal.step(loss=loss)
            model.eval()
            with torch.no_grad():
                model(x)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {"model": model, "batches": batches, "loss": loss_of, "optimizer": optimizer}
