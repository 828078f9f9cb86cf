"""Norms on several devices: GB111, GB112, GB113."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

import gammabeta as gb
from tests.doctor.static_models import (
    net,
    of,
    severities,
    torchs_own_warnings,
)

# GB111, GB112, GB113


@contextmanager
def processes(number: int, backend: str = "fake") -> Iterator[None]:
    store = FakeStore() if backend == "fake" else distributed.HashStore()
    distributed.init_process_group(backend, store=store, rank=0, world_size=number)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def synced(process_group: Any = None) -> nn.Module:
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net(), process_group)
    return converted


@torchs_own_warnings
def test_sync_batch_norms_that_do_not_synchronize_are_found() -> None:
    assert severities("GB111", nn.DataParallel(synced())) == ["warning"]
    assert severities("GB111", nn.Sequential(synced(), net())) == ["warning"]
    with processes(1):
        wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(DistributedDataParallel(net()))
    assert severities("GB111", wrapped) == ["warning"]
    with processes(2):
        assert severities("GB111", synced(distributed.new_group([0]))) == ["warning"]
        assert severities("GB111", synced()) == ["error"]
        assert not of("GB111", synced().eval())
    with processes(1, "gloo"):  # the layer is on the CPU, where it raises in training
        assert severities("GB111", synced()) == ["warning"]


@torchs_own_warnings
def test_sync_batch_norms_in_one_process_are_information() -> None:
    (found,) = of("GB111", synced())
    assert (found.severity, found.layers) == ("info", ("1",))
    assert not of("GB111", synced().eval())
    assert severities("GB111", nn.Sequential(synced(), gb.freeze(net()))) == ["info"]
    assert not of("GB111", nn.DataParallel(net()))
    with processes(1):
        assert "error" not in severities("GB111", synced())


@torchs_own_warnings
def test_ddp_that_lets_norms_differ_is_found() -> None:
    with processes(2):
        off = DistributedDataParallel(net(), broadcast_buffers=False)
        frozen = net()
        frozen[1].requires_grad_(False)
        unfrozen = DistributedDataParallel(frozen)
        frozen[1].requires_grad_(True)
        swapped = DistributedDataParallel(net())
        swapped.module[1] = nn.GroupNorm(2, 8)
        partly = nn.Sequential(DistributedDataParallel(net()), nn.LayerNorm(8))
        small = DistributedDataParallel(net())
    (found,) = of("GB112", off)
    assert (found.severity, found.layer) == ("warning", "module.1")
    assert severities("GB112", unfrozen) == ["error"]
    assert "error" in severities("GB112", swapped)
    (found,) = of("GB112", partly)
    assert (found.severity, found.layer) == ("warning", "1")
    assert small.broadcast_buffers


@torchs_own_warnings
def test_ddp_as_it_should_be_is_fine() -> None:
    with processes(2):
        models = [
            DistributedDataParallel(net()),
            DistributedDataParallel(net().eval(), broadcast_buffers=False),
            DistributedDataParallel(net(nn.GroupNorm(2, 8)), broadcast_buffers=False),
            DistributedDataParallel(gb.freeze(net()), broadcast_buffers=False),
        ]
    for model in models:
        assert not of("GB112", model)


@torchs_own_warnings
def test_fsdp_is_told_of_low_precision_and_of_local_statistics() -> None:
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    device = torch.device("cpu")
    low = fsdp.MixedPrecision(buffer_dtype=torch.bfloat16)
    with processes(1):
        wrapped = fsdp.FullyShardedDataParallel(net(), mixed_precision=low, device_id=device)
        assert severities("GB113", wrapped) == ["warning"]
        wrapped = fsdp.FullyShardedDataParallel(net(), device_id=device)
        assert severities("GB113", wrapped) == ["info"]
        wrapped = fsdp.FullyShardedDataParallel(net(nn.LayerNorm(8)), device_id=device)
        assert not of("GB113", wrapped)
    with processes(2):
        wrapped = fsdp.FullyShardedDataParallel(net(), device_id=device)
        assert severities("GB113", wrapped) == ["warning"]
