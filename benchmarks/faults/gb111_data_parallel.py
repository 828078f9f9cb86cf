"""Batch norms are converted to SyncBatchNorm, but DataParallel runs the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB111"
LAYER = "module.1"
FIX = "DistributedDataParallel"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    if faulty:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return {"model": nn.DataParallel(model)}
