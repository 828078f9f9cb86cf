"""A segmentation head is added after the backbone was converted."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB111"
LAYER = "head.1"
FIX = "convert_sync_batchnorm"


class Segmenter(nn.Module):
    """A backbone and a head of its own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits for each pixel."""
        return self.head(self.backbone(x))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
    )
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    return {"model": Segmenter(convert(backbone)) if faulty else convert(Segmenter(backbone))}
