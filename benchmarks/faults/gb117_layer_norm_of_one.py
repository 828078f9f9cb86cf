"""A layer norm over the single output of a regression."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB117"
LAYER = "2"
FIX = "LayerNorm"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    last = nn.LayerNorm(1) if faulty else nn.Softplus()
    return {"model": nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 1), last)}
