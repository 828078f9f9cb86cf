"""FSDP's mixed precision keeps running statistics in bfloat16."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecision

CODE = "GB113"
LAYER = "_fsdp_wrapped_module.1"
FIX = "buffer_dtype"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 32, bias=False), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2)
    )
    low = MixedPrecision(buffer_dtype=torch.bfloat16) if faulty else None
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        device = torch.device("cpu")
        return {"model": FullyShardedDataParallel(model, mixed_precision=low, device_id=device)}
    finally:
        distributed.destroy_process_group()
