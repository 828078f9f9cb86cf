"""A batch with NaN or infinite values reached the model.

## What it is

An input of the model has a NaN or an infinity: a broken file, a division by zero in preprocessing,
an overflow in half precision.

## Why it matters

One such batch in training mode makes the running statistics NaN, and they stay NaN: an exponential
average never forgets. Every later evaluation is NaN, while training, which does not use them, goes
on.

## How it is detected

The sum of each floating-point input is taken when the model is called, and looked at by the thread
that writes the record, so that training does not wait. It is an error if weights or running
statistics are not finite afterwards; a warning if they are, because evaluation mode or a guard
(`gammabeta`'s layers skip such a batch) kept it out.

In a step that was not observed, a loss that is not finite makes the rule look at the inputs, if
they still exist; if they are gone, at the running statistics: they become NaN in the same step if
the forward pass did, and one step later if it was the loss. Statistics that are not finite when
the run ends, while the weights are, had such a batch, too.

## Fix

```python
if not torch.isfinite(x).all():
    continue  # and norm.reset_running_stats(), then gb.calibrate(model, batches)
```

## Source

Documentation of `torch.nn.BatchNorm2d` (the moving average) and of `torch.isfinite`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, TrainingRule, Watched
from gammabeta.doctor.training.passes import tensors_of

_MOST = 256


@while_training("GB311", "non-finite-batch", "a batch with NaN or infinite values")
class Rule(TrainingRule):
    """Looks at the sums of the inputs."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._sums: deque[tuple[Passed, Tensor]] = deque(maxlen=_MOST)

    def called(self, passed: Passed, args: Any, kwargs: Any, output: Any) -> None:
        """Take the sums of the inputs."""
        if passed.recomputed or passed.path:
            return
        total = _sum(tensors_of([*args, *kwargs.values()], 4))
        if total is not None and self.watched.bad_step is None:
            self._sums.append((passed, total))
        if passed.training and passed.grad:
            result = _sum(tensors_of(output, 2))
            passed.total = result if total is None or result is None else total + result

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Look at the sums so far."""
        if self.watched.bad_step is None:
            yield from self._look(step)

    def lost(self, step: int, finite: bool | None) -> Iterator[Finding]:
        """Look at what is left of a step that was not observed."""
        if self.watched.bad_step is not None or finite:
            return
        norms = self._spoiled()
        if finite is None and not (norms and self._is_sudden()):
            return
        self.watched.bad_step = step
        yield self._finding(step, norms, {"step": step})

    def end(self) -> Iterator[Finding]:
        """Look at the last sums, and at statistics that a batch nobody saw has spoiled."""
        if self.watched.bad_step is None:
            yield from self._look(None)
        norms = self._spoiled()
        course = self.watched.course
        if norms and self.watched.bad_step is None and not course.blamed and self._is_sudden():
            self.watched.bad_step = self.watched.steps
            if not self._broken():
                yield self._finding(self.watched.steps, norms, {})

    def _is_sudden(self) -> bool:
        """Whether the losses before did not rise, as they do before a divergence."""
        course = self.watched.course
        return not course.recent or not any(
            math.isfinite(x) and course.rose(x, 2) for x in course.last(5)
        )

    def _spoiled(self) -> list[str]:
        return [
            n.path
            for n in self.watched.batch_norms
            if not bool(torch.isfinite(n.module.running_mean).all())
        ]

    def _broken(self) -> bool:
        """Whether weights are not finite."""
        return not all(
            bool(torch.isfinite(p.detach()).all())
            for p in self.watched.model.parameters()
            if p.is_floating_point() and not p.is_meta
        )

    def _look(self, step: int | None) -> Iterator[Finding]:
        while self._sums and (step is None or self._sums[0][0].number <= step):
            passed, total = self._sums.popleft()
            if bool(torch.isfinite(total)):
                continue
            self.watched.bad_step = passed.number
            self._sums.clear()
            numbers = {"examples": passed.size, "in training mode": passed.training}
            yield self._finding(passed.number, self._spoiled(), numbers)

    def _finding(self, step: int, norms: list[str], numbers: Mapping[str, Any]) -> Finding:
        broken = self._broken()
        what = [w for w, is_so in (("weights", broken), ("running statistics", norms)) if is_so]
        fix = "if not torch.isfinite(x).all():\n    continue"
        if broken:
            fix += "  # and load the weights of before"
        elif norms:
            fix += "  # and reset_running_stats(), then gb.calibrate(model, batches)"
        return Finding(
            severity="error" if what else "warning",
            layer="",
            layers=("", *norms),
            cause="a batch with NaN or infinite values reached it; "
            + (
                f"the {' and '.join(what)} have not been finite since"
                if what
                else "weights and running statistics are still finite"
            ),
            numbers=numbers,
            fix=fix,
            step=step,
        )


def _sum(tensors: list[Tensor]) -> Tensor | None:
    total: Tensor | None = None
    for x in tensors:
        if x.is_floating_point() and type(x) is Tensor and x.numel():
            low = x.dtype in (torch.float16, torch.bfloat16)
            mine = x.detach().sum(dtype=torch.float32 if low else None)
            total = mine if total is None or total.device != mine.device else total + mine
    return total
