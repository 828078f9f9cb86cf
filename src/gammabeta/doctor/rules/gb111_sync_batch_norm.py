"""A SyncBatchNorm does not synchronize, or cannot.

## What it is

`torch.nn.SyncBatchNorm` takes its statistics over all processes of a group. It does so only in
`DistributedDataParallel` and the like, with one process per accelerator. Everywhere else it is a
plain batch norm, without a warning, or it raises.

## Why it matters

Synchronization was asked for, because the local batch is too small for statistics of its own.

## How it is detected

The model is read:

- It is in `torch.nn.DataParallel`, whose replicas share a process: nothing is synchronized
  (warning).
- A ``process_group`` has one member while there are several processes (warning).
- Some batch norms that follow batches are synchronized and others are not, as if
  ``convert_sync_batchnorm`` had run before they were added, or on a part (warning).
- `DistributedDataParallel` was made before the layers were converted, in the wrong order
  (warning).
- A process group is running and the layer is on the CPU, where it raises in training: an error with
  several processes, a warning with one, and information if the model is wrapped already or the
  group is one for accelerators only, because the model may be moved yet.
- No process group is running: in this process it is a plain batch norm (information).

## Fix

```python
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # all of it, before DDP
model = DistributedDataParallel(model, device_ids=[rank])
```

## Source

Documentation and source of `torch.nn.SyncBatchNorm` (``need_sync`` in ``forward``).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import distributed, nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.parallel import (
    data_parallel,
    group_size,
    logged,
    sharded,
    wrapped_by,
)
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject, is_within
from gammabeta.layers.running import synchronizes

_CONVERT = "model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # all of it, before DDP"


@static("GB111", "sync-batch-norm", "a SyncBatchNorm does not synchronize, or cannot")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield the findings of each SyncBatchNorm."""
    synced = [norm for norm in subject.batch_norms if synchronizes(norm.module)]
    faults = list(_faults(subject, synced)) if synced else []
    yield from faults or _without_group(synced)


def _faults(subject: Subject, synced: list[Norm]) -> Iterator[Finding]:
    replicated = [w.path for w in wrapped_by(subject, nn.DataParallel)]
    processes = _processes()
    for norm in synced:
        if not norm.module.training:
            continue
        size = group_size(norm.module.process_group)
        device = next((t.device.type for t in norm.module.state_dict().values()), "meta")
        if any(is_within(norm.path, path) for path in replicated):
            yield Finding(
                severity="warning",
                layer=norm.path,
                cause="nn.DataParallel runs its replicas in one process, where SyncBatchNorm "
                "normalizes each replica by its own part of the batch",
                fix="model = DistributedDataParallel(model, device_ids=[rank])  # one process a "
                "device",
            )
        elif size == 1 and processes > 1:
            yield Finding(
                severity="warning",
                layer=norm.path,
                cause="its process group has one member, so nothing is synchronized",
                numbers={"members": size, "processes": processes},
                fix="norm.process_group = None  # all processes",
                repair=None,
            )
        elif distributed.is_available() and distributed.is_initialized() and device == "cpu":
            yield Finding(
                severity=_on_the_cpu(subject, processes),
                layer=norm.path,
                cause="SyncBatchNorm is on the CPU while a process group is running: it raises in "
                "training",
                numbers={"processes": processes},
                fix='model.to("cuda")  # or plain batch norms on the CPU',
            )
    yield from _left_out(subject, synced)
    for wrapper in data_parallel(subject):
        late = [norm for norm in synced if wrapper.contains(norm.path)]
        if late and logged(wrapper).get("has_sync_bn") == 0:
            yield Finding(
                severity="warning",
                layer=late[0].path,
                layers=tuple(norm.path for norm in late),
                cause="it was converted to SyncBatchNorm after the model was wrapped in DDP, which "
                "has recorded the earlier layers",
                numbers={"ranks": wrapper.size},
                fix=_CONVERT,
            )


def _on_the_cpu(subject: Subject, processes: int) -> str:
    """Return the severity of a layer on the CPU, where it raises, if it stays there."""
    if processes > 1:
        return "error"
    wrapped = data_parallel(subject) or sharded(subject)
    return "warning" if "gloo" in distributed.get_backend() and not wrapped else "info"


def _without_group(synced: list[Norm]) -> Iterator[Finding]:
    if distributed.is_available() and distributed.is_initialized():
        return
    alone = [norm.path for norm in synced if norm.module.training]
    if alone:
        yield Finding(
            severity="info",
            layer=alone[0],
            layers=tuple(alone),
            cause="no process group is running, so SyncBatchNorm is a plain batch norm here",
            numbers={"norms": len(alone)},
            fix='torch.distributed.init_process_group("nccl")  # in each process, before training',
        )


def _left_out(subject: Subject, synced: list[Norm]) -> Iterator[Finding]:
    if not any(subject.is_moving(norm) for norm in synced):
        return
    for norm in subject.batch_norms:
        if not synchronizes(norm.module) and subject.is_moving(norm) and norm.family == "batch":
            yield Finding(
                severity="warning",
                layer=norm.path,
                cause="it is not synchronized although other batch norms of the model are",
                numbers={"synchronized": len(synced)},
                fix=_CONVERT,
            )


def _processes() -> int:
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
