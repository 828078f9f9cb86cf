"""Gradients of single examples by ``vmap(grad(…))`` through a batch norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.func import functional_call, grad, vmap

CODE = "GB114"
LAYER = "net.1"
FIX = "convert"


class Influence(nn.Module):
    """Returns the norm of the gradient of each example's loss."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return (N,) norms."""
        state = dict(self.net.named_parameters())

        def loss(state: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return nn.functional.mse_loss(functional_call(self.net, state, (x[None],))[0], y)

        each = vmap(grad(loss), (None, 0, 0))(state, x, y)
        return sum(g.flatten(1).square().sum(1) for g in each.values()).sqrt()


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 16, bias=False),
        nn.BatchNorm1d(16, track_running_stats=False) if faulty else nn.LayerNorm(16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    return {"model": Influence(net)}
