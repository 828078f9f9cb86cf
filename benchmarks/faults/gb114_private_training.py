"""Differentially private training of a network with batch norms, as in Opacus."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB114"
LAYER = "_module.1"
FIX = "convert"


class GradSampleModule(nn.Module):
    """Gives each parameter ``grad_sample``, the gradients of single examples, as Opacus does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the module."""
        return self._module(x)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 5, bias=False),
        nn.BatchNorm2d(16) if faulty else nn.GroupNorm(4, 16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return {"model": GradSampleModule(model)}
