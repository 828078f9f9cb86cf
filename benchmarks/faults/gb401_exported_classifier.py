"""A classifier is exported without ``eval()``."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB401"
LAYER = "features.1"
FIX = "eval()"


class Classifier(nn.Module):
    """Features and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.features(x).flatten(1))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Classifier()
    if not faulty:
        model.eval()
    return {"model": torch.export.export(model, (torch.randn(4, 3, 16, 16),))}
