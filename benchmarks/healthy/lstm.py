"""An LSTM with layer norm on padded sequences, which masks the padding out of its mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Model(nn.Module):
    """Embeds words, runs an LSTM, and takes the mean of the real words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(30, 16, padding_idx=0)
        self.lstm = nn.LSTM(16, 32, batch_first=True)
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 2)

    def forward(self, words: Tensor) -> Tensor:
        """Return the logits."""
        real = (words > 0).float()[:, :, None]
        y = self.norm(self.lstm(self.words(words))[0])
        return self.head((y * real).sum(1) / real.sum(1).clamp(min=1))


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    x = torch.randint(1, 30, (128, 12))
    for row, length in enumerate(torch.randint(4, 13, (128,)).tolist()):
        x[row, length:] = 0
    y = (x == 7).any(1).long()
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(6):
            for batch in torch.randperm(128).split(32):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                signal.step(loss=loss)
    batches = list(zip(x.split(32), y.split(32), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
