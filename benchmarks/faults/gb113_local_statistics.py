"""Local batch norms under ``fully_shard`` on four ranks: nothing synchronizes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore

CODE = "GB113"
LAYER = "1"
FIX = "convert_sync_batchnorm"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model: nn.Module = nn.Sequential(
        nn.Conv1d(4, 16, 5, bias=False),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    if not faulty:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    distributed.init_process_group("fake", store=FakeStore(), rank=0, world_size=4)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (4,)))
        return {"model": model}
    finally:
        distributed.destroy_process_group()
