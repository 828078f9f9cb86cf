"""A schedule raises the learning rate a hundredfold in the middle of the run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB315"
LAYER = ""
FIX = "lr"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a small transformer encoder on sequences."""
    torch.manual_seed(0)
    embed = nn.Embedding(16, 24)
    encoder = nn.TransformerEncoderLayer(24, 2, 48, dropout=0.0, batch_first=True, norm_first=True)
    model = nn.Sequential(embed, encoder, nn.Linear(24, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    with watch(model, optimizer=optimizer) as signal:
        for step in range(150):
            restarted = faulty and 100 <= step < 106
            optimizer.param_groups[0]["lr"] = 0.3 if restarted else 3e-3
            x = (torch.randint(0, 16, (16, 1)) + torch.arange(12)) % 16
            x = torch.where(torch.rand(16, 12) < 0.1, torch.randint(0, 16, (16, 12)), x)
            loss = F.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            signal.step(loss=loss)
