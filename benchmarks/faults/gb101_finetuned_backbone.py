"""A pretrained backbone is frozen by ``requires_grad`` only: its statistics still move.

torch's issue #86590.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB101"
LAYER = "backbone.1"
FIX = "freeze"


class Classifier(nn.Module):
    """A convolutional backbone and a linear head."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
        )
        self.head = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.backbone(x).mean((2, 3)))


def images(count: int, classes: int) -> tuple[Tensor, Tensor]:
    """Return noise whose mean colour depends on the class."""
    y = torch.randint(classes, (count,))
    colours = torch.linspace(-1, 1, 3 * classes).view(classes, 3)
    return torch.randn(count, 3, 12, 12) + colours[y][:, :, None, None], y


def fit(model: nn.Module, data: tuple[Tensor, Tensor], steps: int) -> None:
    """Train what requires a gradient."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for step in range(steps):
        start = 16 * step % len(data[0])
        loss = F.cross_entropy(model(data[0][start : start + 16]), data[1][start : start + 16])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def build(faulty: bool) -> dict[str, Any]:
    """Pretrain, freeze the backbone, train a new head."""
    torch.manual_seed(0)
    model = Classifier(4)
    fit(model, images(256, 4), 40)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    model.head = nn.Linear(32, 2)
    model.train()
    if not faulty:
        for module in model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    x, y = images(128, 2)
    fit(model, (x, y), 30)
    return {
        "model": model,
        "batches": list(zip(x.split(16), y.split(16), strict=True)),
        "loss": F.cross_entropy,
    }
