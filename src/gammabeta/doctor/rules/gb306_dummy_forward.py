"""A dummy forward pass moved the running statistics before training began.

## What it is

The model was called in training mode before its first step: to print a summary, to infer shapes, to
initialize lazy modules, to count operations, often with zeros or noise.

## Why it matters

The dummy counts as a batch: after one, a tenth of the running statistics is that of zeros. It fades
with 0.9 to the power of the steps, but not with ``momentum=None``, and not in a part that trains
rarely. And the run is no longer the one that its seed determines.

## How it is detected

When watching begins: ``num_batches_tracked`` is 1 to 8 in a model whose batch norms are otherwise
untouched (every β is 0, every γ constant), so that nothing was loaded or trained. Or the model is
called in training mode, up to three times, before the first step and in no later one, and no
backward pass reaches the output; or its norms are updated before its first call, by a part that is
called alone, or while it is traced. A resumed or pretrained model has trained β. More calls than
that are taken for a calibration.

## Fix

```python
model.eval()
with torch.no_grad():
    model(dummy)
model.train()
```

To undo it: ``norm.reset_running_stats()`` for each norm.

## Source

Documentation of `torch.nn.modules.lazy.LazyModuleMixin` (dry runs) and of
`torch.nn.BatchNorm2d.reset_running_stats`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Step, TrainingRule, Watched

_MOST = 8
_FIX = """model.eval()
with torch.no_grad():
    ...  # the dummy call
model.train()"""


@while_training("GB306", "dummy-forward", "statistics were updated before the first step")
class Rule(TrainingRule):
    """Looks at the counters at the start, and at calls before the first step."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._said = False
        self._steps = 0
        self._outside: dict[str, int] = {}  # updates before the first call

    def begin(self) -> Iterator[Finding]:
        """Look at a model that nothing has trained."""
        norms = self.watched.batch_norms
        counts = {n.path: count for n in norms if (count := _count(n.module))}
        if not counts or max(counts.values()) > _MOST or not _untouched([n.module for n in norms]):
            return
        yield self._finding(tuple(counts), max(counts.values()))

    def step(self, step: Step) -> Iterator[Finding]:
        """Look at the calls before the first step."""
        for spare in self.watched.spares:
            if spare.why == "before" and not self._said:
                yield self._finding(spare.layers, len(spare.passes))
        self._steps += 1
        if self._steps == 1 and step.passes and step.passes[0].path == "":
            self._outside = step.passes[0].outside
        elif self._steps == 2 and self._outside and not self._said:
            calls = max(self._outside.values())
            alone = step.outside or any(p.path for p in step.passes)  # again: a habit
            if calls <= _MOST and step.passes and not alone:
                yield self._finding(tuple(self._outside), calls)

    def end(self) -> Iterator[Finding]:
        """Look at the last calls."""
        for spare in self.watched.spares:
            if spare.why == "before" and not self._said:
                yield self._finding(spare.layers, len(spare.passes))

    def _finding(self, layers: tuple[str, ...], calls: int) -> Finding:
        self._said = True
        return Finding(
            severity="warning",
            layer="",
            layers=("", *layers),
            cause="a forward pass in train() mode moved the running statistics before training "
            "began",
            numbers={"calls": calls},
            fix=_FIX,
            step=1 if self.watched.steps else 0,
        )


def _count(norm: Any) -> int:
    tracked = getattr(norm, "num_batches_tracked", None)
    return int(tracked) if isinstance(tracked, Tensor) and _readable(tracked) else 0


def _readable(tensor: Tensor) -> bool:
    return not is_lazy(tensor) and not tensor.is_meta


def _untouched(norms: list[Any]) -> bool:
    """Whether every β is 0 and every γ constant."""
    some = False
    for norm in norms:
        gamma, beta = getattr(norm, "weight", None), getattr(norm, "bias", None)
        if isinstance(beta, Tensor) and _readable(beta):
            some = True
            if bool((beta != 0).any()):
                return False
        elif isinstance(gamma, Tensor) and _readable(gamma) and gamma.numel():
            some = True
            if bool((gamma != gamma.flatten()[0]).any()):
                return False
    return some
