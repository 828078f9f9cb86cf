"""129 examples in batches of 16: the last batch has one, and torch raises an error."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

CODE = "GB211"
LAYER = "1"
FIX = "drop_last"


def build(faulty: bool) -> dict[str, Any]:
    """Return a perceptron and its loader."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3))
    data = TensorDataset(torch.randn(129, 10), torch.randint(0, 3, (129,)))
    loader = DataLoader(data, batch_size=16, shuffle=True, drop_last=not faulty)
    return {"model": model, "batches": loader, "loss": F.cross_entropy}
