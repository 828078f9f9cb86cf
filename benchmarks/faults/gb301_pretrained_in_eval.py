"""A loader returns the model in eval() mode, as from_pretrained does, and it is fine-tuned so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB301"
LAYER = ""
FIX = "train()"


class Attentive(nn.Module):
    """A small transformer with batch norm in its head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.norm = nn.BatchNorm1d(16)
        self.head = nn.Linear(16, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Classify sequences."""
        return self.head(self.norm(self.block(self.embed(tokens)).mean(1)))


def load() -> nn.Module:
    """Return a model as a hub does: ready for inference."""
    return Attentive().eval()


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Fine-tune."""
    torch.manual_seed(0)
    model = load()
    if not faulty:
        model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with watch(model, optimizer=optimizer) as signal:
        for _ in range(20):
            tokens = torch.randint(0, 20, (16, 8))
            loss = F.cross_entropy(model(tokens), (tokens[:, 0] > 9).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
