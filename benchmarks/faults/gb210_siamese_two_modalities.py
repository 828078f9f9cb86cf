"""A siamese encoder with batch norm is used for pictures and for depth maps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB210"
LAYER = "encoder.1"
FIX = "ModuleList"


class Siamese(nn.Module):
    """Says whether a picture and a depth map show the same thing."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(512, 2)

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        """Classify a pair: two channels."""
        first, second = self.encoder(pair[:, :1]), self.encoder(pair[:, 1:])
        return self.head(torch.cat([first, second], 1))


def build(faulty: bool) -> dict[str, Any]:
    """Train on pairs; depth maps are in millimetres if ``faulty``, else standardized."""
    torch.manual_seed(0)
    model = Siamese()
    labels = torch.randint(0, 2, (256,))
    pattern = torch.randn(2, 8, 8)
    picture = torch.randn(256, 8, 8) + pattern[labels]
    depth = torch.randn(256, 8, 8) + pattern[labels]
    if faulty:
        depth = 20 + 10 * depth
    x = torch.stack([picture, depth], 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    batches = list(zip(x.split(32), labels.split(32), strict=True))
    for _epoch in range(6):
        for pairs, y in batches:
            loss = F.cross_entropy(model(pairs), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return {"model": model, "batches": batches, "loss": F.cross_entropy, "optimizer": optimizer}
