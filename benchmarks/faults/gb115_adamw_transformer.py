"""AdamW decays all parameters of a transformer, γ and β of its norms too."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB115"
LAYER = "norm1"
FIX = "weight_decay"


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)
    norms = [*model.norm1.parameters(), *model.norm2.parameters()]
    others = [p for p in model.parameters() if not any(p is norm for norm in norms)]
    groups = [{"params": others}, {"params": norms, "weight_decay": 0.05 if faulty else 0.0}]
    return {"model": model, "optimizer": torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.05)}
