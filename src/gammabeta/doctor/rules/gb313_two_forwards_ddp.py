"""A DDP model is called twice before one backward pass.

## What it is

``loss = f(ddp(a), ddp(b))``: two calls of a `DistributedDataParallel` model whose outputs share a
backward pass, as in a GAN, a siamese network or a consistency loss.

## Why it matters

Each call begins with a broadcast of the buffers of rank 0, in place. Batch norm's running
statistics are saved for the backward pass of the first call, which then fails ("modified by an
inplace operation") on other ranks, or hangs them; on rank 0 everything looks right.

## How it is detected

One backward pass reached the outputs of two calls of the model, a `DistributedDataParallel` with
``broadcast_buffers=True``, in training mode, and the model has batch norms with running statistics.

## Fix

```python
a, b = ddp(torch.cat([a, b])).chunk(2)  # one call; or broadcast_buffers=False
```

## Source

pytorch/pytorch#22095, #110363 and #175024 (two forward passes through DDP and batch norm);
XPixelGroup/BasicSR#278; documentation of `torch.nn.parallel.DistributedDataParallel`.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, Step, TrainingRule


@while_training("GB313", "two-forwards-ddp", "a DDP model is called twice before a backward pass")
class Rule(TrainingRule):
    """Looks for two calls with a common backward pass."""

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield the finding at the first such step."""
        if len(step.passes) > 1:
            yield from self._found(step.passes)

    def end(self) -> Iterator[Finding]:
        """Look at the calls of a step that failed."""
        yield from self._found(self.watched.pending)

    def _found(self, passes: list[Passed]) -> Iterator[Finding]:
        model = self.watched.model
        if not isinstance(model, nn.parallel.DistributedDataParallel):
            return
        if not model.broadcast_buffers or not self.watched.batch_norms:
            return
        seen: set[int] = set()
        for p in (p for p in passes if p.training and p.path == "" and not p.recomputed):
            if seen.intersection(p.tasks):
                yield Finding(
                    severity="error",
                    layer="",
                    layers=("", *(n.path for n in self.watched.batch_norms)),
                    cause="it is called twice before one backward pass, and each call broadcasts "
                    "buffers in place that the backward pass of the other needs",
                    numbers={"broadcast_buffers": True},
                    fix="a, b = model(torch.cat([a, b])).chunk(2)  # or broadcast_buffers=False",
                    step=p.number,
                )
                return
            seen.update(p.tasks)
