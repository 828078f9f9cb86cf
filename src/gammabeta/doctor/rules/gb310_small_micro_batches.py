"""Gradients are accumulated over micro-batches that are too small for batch norm.

## What it is

Several forward and backward passes come before each optimizer step, to imitate a large batch. Batch
norm does not take part: it normalizes by each micro-batch.

## Why it matters

The gradient is that of a large batch, the normalization that of 1 to 4 examples: noisy statistics
in training, which evaluation does not have. Group norm's paper measures 10 % more errors at a batch
of 2 than at 32.

## How it is detected

In two optimizer steps, at least two backward passes went through different calls with at most 4
examples each (8: information), and those calls updated running statistics. If other optimizers step
too, as in a GAN, it is information.

## Fix

```python
model = gb.convert(model, to="group")  # independent of the batch; or larger micro-batches
```

Frozen batch norms (`gammabeta.freeze`) are another way for pretrained models.

## Source

Wu & He 2018, arXiv:1803.08494, figure 1; Lightning's and transformers' documentation of gradient
accumulation.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import Passed, Step, TrainingRule, Watched

_SMALL = 4
_SMALLISH = 8
_STEPS = 2


@while_training("GB310", "small-micro-batches", "gradients are accumulated over tiny batches")
class Rule(TrainingRule):
    """Counts backward passes by optimizer step."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._passes: list[Passed] = []
        self._found: list[list[Passed]] = []

    def step(self, step: Step) -> Iterator[Finding]:
        """Yield the finding at the second such optimizer step."""
        if len(self._found) >= _STEPS:
            return
        self._passes += [p for p in step.passes if p.backward and p.updates and not p.recomputed]
        yield from self._settle(self._passes[-1].own if self._passes else 0)

    def end(self) -> Iterator[Finding]:
        """Look at the last optimizer step."""
        if len(self._found) < _STEPS:
            yield from self._settle(-1)

    def _settle(self, last: int) -> Iterator[Finding]:
        """Look at the passes of all optimizer steps but the last one."""
        while self._passes and self._passes[0].own != last and len(self._found) < _STEPS:
            own = self._passes[0].own
            of_step = [p for p in self._passes if p.own == own]
            self._passes = self._passes[len(of_step) :]
            tasks = {task for p in of_step for task in p.tasks}
            if len(of_step) > 1 and len(tasks) > 1 and 0 < _largest(of_step) <= _SMALLISH:
                self._found.append(of_step)
            if len(self._found) == _STEPS:
                yield self._finding()

    def _finding(self) -> Finding:
        first, second = self._found
        size = _largest(first)
        layers = tuple(dict.fromkeys(path for p in first for path in p.updates))
        others = second[0].foreign > first[0].foreign
        return Finding(
            severity="warning" if size <= _SMALL and not others else "info",
            layer="",
            layers=("", *layers),
            cause="gradients are accumulated over micro-batches, and batch norm normalizes by each "
            "of them",
            numbers={"examples a micro-batch": size, "micro-batches a step": len(first)},
            fix='model = gb.convert(model, to="group")  # or larger micro-batches',
            step=first[0].number,
        )


def _largest(passes: list[Passed]) -> int:
    return max(p.size for p in passes)
