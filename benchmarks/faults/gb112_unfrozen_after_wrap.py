"""γ and β of a transformer are unfrozen after DDP has been made."""

from __future__ import annotations

from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

CODE = "GB112"
LAYER = "module.norm1"
FIX = "DistributedDataParallel"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    norms = [model.norm1, model.norm2]
    for norm in norms:
        norm.requires_grad_(not faulty)
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
    finally:
        distributed.destroy_process_group()
    for norm in norms:
        norm.requires_grad_(True)
    return {"model": wrapped}
