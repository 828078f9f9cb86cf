"""Checkpoints are extrapolated with the buffers among the weights: a variance becomes negative."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB107"
LAYER = "1"
FIX = "calibrate"


def build(faulty: bool) -> dict[str, Any]:
    """Move the weights beyond the second checkpoint, away from the first."""
    torch.manual_seed(11)
    model = nn.Sequential(
        nn.Linear(12, 24, bias=False),
        nn.BatchNorm1d(24),
        nn.SiLU(),
        nn.Linear(24, 24, bias=False),
        nn.BatchNorm1d(24),
        nn.SiLU(),
        nn.Linear(24, 4),
    )
    first = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        for _ in range(20):
            model(0.3 * torch.randn(64, 12))
    merged = {}
    for name, value in model.state_dict().items():
        parameters = dict(model.named_parameters())
        if value.is_floating_point() and (faulty or name in parameters):
            value = value + 0.8 * (value - first[name])
        merged[name] = value
    model.load_state_dict(merged)
    return {"model": model}
