"""The training loader does not shuffle a data set that is sorted by class."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CODE = "GB207"
LAYER = "1"
FIX = "shuffle=True"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    y = torch.arange(8).repeat_interleave(32)
    x = 0.4 * torch.randn(8, 3)[y][:, :, None, None] + torch.randn(256, 3, 10, 10)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 8),
    )
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=not faulty)
    return {"model": model, "batches": loader, "loss": F.cross_entropy}
