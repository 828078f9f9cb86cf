"""SGD with weight decay on everything, in a small residual network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB115"
LAYER = "norm"
FIX = "weight_decay"


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head((x + self.norm(self.conv(x)).relu()).mean((2, 3)))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Residual()
    if faulty:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=5e-4)
    else:
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
    return {"model": model, "optimizer": optimizer}
