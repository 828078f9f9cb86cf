"""SAM: the second forward pass of a step, at perturbed weights, updates running statistics.

The healthy twin does what davda54/sam's bypass_bn.py does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB305"
LAYER = ""
FIX = "momentum"


def disable_running_stats(model: nn.Module) -> None:
    """Set the momentum of batch norms to 0."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.backup_momentum = module.momentum
            module.momentum = 0


def enable_running_stats(model: nn.Module) -> None:
    """Restore the momentum of batch norms."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = module.backup_momentum


class SAM(torch.optim.Optimizer):
    """Sharpness-aware minimization over SGD."""

    def __init__(self, params: Any, rho: float = 0.05, **kwargs: Any) -> None:
        super().__init__(params, {"rho": rho, **kwargs})
        self.base = torch.optim.SGD(self.param_groups, **kwargs)

    @torch.no_grad()
    def first_step(self) -> None:
        """Climb."""
        grads = [p.grad.norm() for g in self.param_groups for p in g["params"]]
        scale = self.param_groups[0]["rho"] / (torch.stack(grads).norm() + 1e-12)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["e"] = p.grad * scale
                p.add_(self.state[p]["e"])
        self.zero_grad()

    @torch.no_grad()
    def second_step(self) -> None:
        """Climb down, and step."""
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(self.state[p]["e"])
        self.base.step()
        self.zero_grad()


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train a convolutional network."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)
    )
    optimizer = SAM(model.parameters(), lr=0.05)
    with watch(model) as signal:
        for _ in range(20):
            x = torch.randn(16, 1, 8, 8)
            y = (x.mean((1, 2, 3)) > 0).long()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.first_step()
            if not faulty:
                disable_running_stats(model)
            F.cross_entropy(model(x), y).backward()
            if not faulty:
                enable_running_stats(model)
            optimizer.second_step()
            signal.step(loss=loss)
