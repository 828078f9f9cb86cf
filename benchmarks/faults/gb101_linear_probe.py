"""A linear probe's optimizer holds the head alone, but the encoder is left in training mode."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import gammabeta as gb

CODE = "GB101"
LAYER = "encoder.net.1"
FIX = "freeze"


class Encoder(nn.Module):
    """A multilayer perceptron."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(20, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.GELU(),
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.GELU(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features."""
        return self.net(x)


class Probe(nn.Module):
    """An encoder with a linear classifier on top."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.classifier(self.encoder(x))


def build(faulty: bool) -> dict[str, Any]:
    """Put a classifier on an encoder."""
    torch.manual_seed(1)
    encoder = Encoder()
    encoder(torch.randn(128, 20))
    probe = Probe(encoder)
    probe.train()
    if not faulty:
        gb.freeze(probe.encoder)
    optimizer = torch.optim.Adam(probe.classifier.parameters(), lr=1e-3)
    return {"model": probe, "optimizer": optimizer}
