"""``broadcast_buffers=False`` with local batch norms: ranks have different ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

CODE = "GB112"
LAYER = "module.1"
FIX = "broadcast_buffers"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(288, 4),
    )
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        return {"model": DistributedDataParallel(model, broadcast_buffers=not faulty)}
    finally:
        distributed.destroy_process_group()
