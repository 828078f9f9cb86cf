"""``track_running_stats`` is set to False on a built network, to mend bad validation results.

torch's issue #44415.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

CODE = "GB102"
LAYER = "1"
FIX = "track_running_stats"


def build(faulty: bool) -> dict[str, Any]:
    """Train a small network on shifted data."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(10, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 32),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Linear(32, 1),
    )
    if faulty:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.track_running_stats = False
    x = 3 + 2 * torch.randn(512, 10)
    y = x[:, :3].sum(1, keepdim=True) - 9 + torch.randn(512, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _epoch in range(8):
        for batch in torch.randperm(512).split(64):
            loss = F.mse_loss(model(x[batch]), y[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    batches = list(zip(x.split(64), y.split(64), strict=True))
    return {"model": model, "batches": batches, "loss": F.mse_loss, "optimizer": optimizer}
