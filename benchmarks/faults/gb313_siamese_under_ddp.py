"""A siamese network under DDP is called twice before one backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CODE = "GB313"
LAYER = ""
FIX = "cat"


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on one process as a distributed script does."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 8))
        model = DistributedDataParallel(net)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, optimizer=optimizer) as signal:
            for _ in range(15):
                x = torch.randn(16, 8)
                a, b = x + 0.1 * torch.randn(16, 8), x + 0.1 * torch.randn(16, 8)
                if faulty:
                    left, right = model(a), model(b)
                else:
                    left, right = model(torch.cat([a, b])).chunk(2)
                loss = F.cross_entropy(left @ right.T, torch.arange(16))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    finally:
        dist.destroy_process_group()
