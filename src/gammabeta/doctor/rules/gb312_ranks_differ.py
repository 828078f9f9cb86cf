"""The running statistics of the processes of a distributed training differ.

## What it is

Each process (rank) normalizes by its own batches, and nothing brings the running statistics
together: ``DistributedDataParallel(broadcast_buffers=False)`` with local batch norms, or gradients
that are averaged by hand.

## Why it matters

The checkpoint has the statistics of one rank, those of a fraction of the data; an evaluation that
is spread over the ranks is done with a different network on each.

## How it is detected

Each rank puts sums of its running statistics into the store of the process group when watching
ends, and at steps 8, 64, 512, … Nothing waits for another rank in training, and at the end for a
second at most. They differ if a mean or a variance does by more than a thousandth of σ or σ².
`DistributedDataParallel` with ``broadcast_buffers=True`` is left out: every forward pass begins
with the statistics of rank 0. Ranks that do not record take part if they call `gammabeta.watch`
with ``doctor``.

## Fix

```python
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # or broadcast_buffers=True
```

## Source

Documentation of `torch.nn.parallel.DistributedDataParallel` (``broadcast_buffers``).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule, Watched
from gammabeta.doctor.training.copies import unwrapped

_PATIENCE = 1.0
_APART = 1e-3
_FIX = "model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # or broadcast_buffers=True"


@while_training("GB312", "ranks-differ", "the running statistics of the ranks differ")
class Rule(TrainingRule):
    """Compares sums of running statistics through the store of the process group."""

    compares_processes = True

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._name = _NAMES.get(type(unwrapped(watched.model)).__qualname__)
        self._next = 8
        self._posted: list[str] = []

    def step(self, step: Step) -> Iterator[Finding]:
        """Post the sums now and then; compare with what others have posted before."""
        if step.number < self._next:
            return
        store = self._store()
        if store is None:
            self._next *= 8
            return
        if self._posted:
            yield from self._compared(store, self._posted[-1], 0.0, step.number)
        self._post(store, str(step.number))
        self._next *= 8

    def end(self) -> Iterator[Finding]:
        """Compare the last statistics."""
        store = self._store()
        if store is None:
            return
        self._post(store, "end")
        yield from self._compared(store, "end", _PATIENCE, self.watched.steps)

    def _store(self) -> Any:
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return None
        model = self.watched.model
        if not self.watched.batch_norms:
            return None
        if isinstance(model, nn.parallel.DistributedDataParallel) and model.broadcast_buffers:
            return None
        return dist.distributed_c10d._get_default_store()

    def _key(self, when: str, rank: int) -> str:
        return f"gammabeta/{self._name}/{when}/{rank}"

    def _post(self, store: Any, when: str) -> None:
        sums = {n.path: _sums(n.module) for n in self.watched.batch_norms}
        store.set(self._key(when, dist.get_rank()), json.dumps(sums))
        self._posted.append(when)

    def _compared(self, store: Any, when: str, patience: float, step: int) -> Iterator[Finding]:
        rank, until = dist.get_rank(), time.monotonic() + patience
        mine = json.loads(store.get(self._key(when, rank)))
        for other in (r for r in range(dist.get_world_size()) if r != rank):
            while not (there := store.check([self._key(when, other)])):
                if time.monotonic() >= until:
                    break
                time.sleep(0.01)
            if not there:
                continue
            theirs = json.loads(store.get(self._key(when, other)))
            layers = [p for p in mine if p in theirs and _differ(mine[p], theirs[p])]
            if layers:
                yield Finding(
                    severity="warning",
                    layer="",
                    layers=("", *layers),
                    cause="the running statistics of the ranks differ, and a checkpoint holds "
                    "those of one rank only",
                    numbers={"ranks": dist.get_world_size(), "batch norms": len(layers)},
                    fix=_FIX,
                    step=step if when == "end" else int(when),
                )
                return


class _Names:
    """Numbers the watched models of a process, so that ranks mean the same one."""

    def __init__(self) -> None:
        self._count: dict[str, int] = {}

    def get(self, name: str) -> str:
        self._count[name] = self._count.get(name, 0) + 1
        return f"{name}-{self._count[name]}"


_NAMES = _Names()


def _sums(norm: Any) -> list[float]:
    mean, var = norm.running_mean.double(), norm.running_var.double()
    weights = torch.linspace(1, 2, mean.numel(), dtype=torch.float64, device=mean.device)
    scale = (var + float(getattr(norm, "eps", 1e-5))).sqrt()
    # sums of values over σ: comparable between ranks, and sensitive to each channel
    return [
        float(each)
        for each in torch.stack(
            [(weights * mean).mean(), (weights * var).mean(), scale.mean(), var.mean()]
        ).tolist()
    ]


def _differ(a: list[float], b: list[float]) -> bool:
    scale, var = max(a[2], b[2]), max(a[3], b[3])
    return abs(a[0] - b[0]) > _APART * scale or abs(a[1] - b[1]) > _APART * var
