"""Two processes train with broadcast_buffers=False and local batch norms."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CODE = "GB312"
LAYER = ""
FIX = "SyncBatchNorm"


def work(rank: int, store: str, faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on one rank."""
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, 2),
        rank=rank,
        world_size=2,  # type: ignore[arg-type]
    )
    try:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        model = DistributedDataParallel(net, broadcast_buffers=not faulty)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        torch.manual_seed(rank)
        with watch(model, optimizer=optimizer) as signal:
            for _ in range(10):
                x = torch.randn(16, 4) + rank
                loss = F.cross_entropy(model(x), (x[:, 0] > 0).long())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    finally:
        dist.destroy_process_group()


def train(faulty: bool, watch: Callable[..., Any]) -> None:
    """Train on two ranks; this process is rank 0."""
    store = tempfile.mkdtemp() + "/store"
    other = multiprocessing.get_context("fork").Process(
        target=work, args=(1, store, faulty, watch), daemon=True
    )
    other.start()
    try:
        work(0, store, faulty, watch)
    finally:
        other.join(10)
        other.kill()  # its group may wait for this process, and holds what this one has open
        other.join()
