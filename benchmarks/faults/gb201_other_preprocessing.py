"""A convolutional net is used on images that are not scaled as those of its training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB201"
LAYER = "1"
FIX = "calibrate"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 4),
    )
    y = torch.randint(4, (320,))
    images = _images(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _epoch in range(6):
        for batch in torch.randperm(320).split(32):
            loss = F.cross_entropy(model(images[batch] / 255), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    scaled = images / 127.5 - 1 if faulty else images / 255
    batches = list(zip(scaled.split(32), y.split(32), strict=True))
    return {"model": model.eval(), "batches": batches[:6], "loss": F.cross_entropy}


def _images(y: Tensor) -> Tensor:
    waves = torch.linspace(0, 6.28, 12)
    stripes = torch.stack([(f * waves).sin().expand(12, 12) for f in (1, 2, 3, 4)])
    images = 0.3 * stripes[y][:, None] + 0.15 * torch.randn(len(y), 3, 12, 12) + 0.5
    return 255 * images.clamp(0, 1)
