"""An attention masks every key of an empty sequence, so that its softmax is NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB316"
LAYER = "attention"
FIX = "nan_to_num"


class Attention(nn.Module):
    """Single-head attention with a mask of padding."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        """Attend to what is not padding."""
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = (q @ k.transpose(1, 2)) / q.shape[-1] ** 0.5
        return scores.masked_fill(padding[:, None], -torch.inf).softmax(-1) @ v


class Classifier(nn.Module):
    """Attention, mean, head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.attention = Attention(16)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Classify sequences."""
        h = self.embed(tokens)
        return self.head((h + self.attention(h, tokens == 0)).mean(1))


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on sequences of which a few are empty."""
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with watch(model, optimizer=optimizer) as signal:
        for step in range(40):
            tokens = torch.randint(1, 20, (16, 10))
            tokens[:, 7:] = 0
            if faulty and step == 23:
                tokens[5] = 0
            y = (tokens[:, 0] > 9).long()
            loss = F.cross_entropy(model(tokens), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
