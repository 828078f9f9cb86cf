"""The counter of a cumulative average is converted to bfloat16 too, where it stops at 256."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB105"
LAYER = "net.1"
FIX = "num_batches_tracked"


class Policy(nn.Module):
    """A policy that normalizes its observations by their average over the whole training."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(8, 32, bias=False),
            nn.BatchNorm1d(32, momentum=None),
            nn.Tanh(),
            nn.Linear(32, 2),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return actions."""
        return self.net(x)


def build(faulty: bool) -> dict[str, Any]:
    """Count 300 batches."""
    torch.manual_seed(7)
    policy = Policy()
    if faulty:
        for module in policy.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if name == "num_batches_tracked":
                    setattr(module, name, buffer.to(torch.bfloat16))
    with torch.no_grad():
        for _ in range(300):
            policy(torch.randn(16, 8))
    return {"model": policy}
