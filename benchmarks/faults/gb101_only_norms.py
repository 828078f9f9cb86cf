"""A detector whose norms alone are frozen, by ``requires_grad``, before it is trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import gammabeta as gb

CODE = "GB101"
LAYER = "backbone.1"
FIX = "gb.freeze"


class Detector(nn.Module):
    """A backbone with a norm, and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.boxes, self.classes = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return boxes and logits."""
        y = self.backbone(x)
        return self.boxes(y), self.classes(y)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Detector()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
            if not faulty:
                gb.freeze(module)
    return {"model": model}
