"""The learning rate is beyond the stable range.

## What it is

Gradient descent is stable while the learning rate times the curvature of the loss is below 2.
Beyond it, each step overshoots by more than it gains: the loss rises from the start, oscillates, or
jumps once to a plateau on which nothing is learned.

## Why it matters

The run may look alive: the loss is finite and comes down from the peak that the first steps made.
But the weights that it was started with are gone, units are dead, and a plateau is all it reaches.

## How it is detected

By the losses, together with the size of the updates. Updates are *large* if the median of
update ÷ weight over the layers was 0.1 or more in a recorded frame (10⁻³ is usual, and a randomly
initialized layer is forgotten at 1). Large updates, and the loss was never below 0.7 of the first
one, and one of

- five losses in a row above twice the first one, and one above three times (divergence);
- a loss that is not finite, after large updates or after losses above three times the first;
- after 30 steps, or at the end, the last ten losses are above 0.9 of the first one, and the first
  20 (medians of three: a single one may be that of a small batch) were once above three times it,
  or the median of update ÷ weight was 0.8 or more;
- after 60 steps, and at the end, the last ten losses are above 0.85 of the first one, which is
  above what a guess costs, the first 20 (likewise) were once above 1.7 times it, and the median
  of update ÷ weight was 0.3 or more.

A loss that rises slowly, as that of a GAN's generator or of a warm-up of a penalty, has small
updates. A rise after the model has learned is a spike (GB315), unless the learning rate had been
raised before and the loss does not come back.

## Fix

```python
for group in optimizer.param_groups:
    group["lr"] *= 0.1
```

## Source

Cohen et al. 2021, *Gradient Descent on Neural Networks Typically Occurs at the Edge of Stability*,
arXiv:2103.00065; Goyal et al. 2017, arXiv:1706.02677 (warm-up).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from statistics import median

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.passes import Step

_LARGE, _HUGE, _REPLACED = 0.1, 0.3, 0.8
"""Medians of update ÷ weight."""
_ENOUGH, _AT_END, _LONG = 30, 8, 60
"""Losses after which a plateau is judged: while it trains, at the end, and for the last time."""


@while_training("GB314", "learning-rate", "the learning rate is beyond the stable range")
class Rule(TrainingRule):
    """Judges the losses since the first one together with the size of the updates."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._rates: tuple[float, ...] = ()
        self._broke: int | None = None

    def step(self, step: Step) -> None:
        """Note the learning rates of the first step that has some."""
        self._rates = self._rates or tuple(rate for rate in step.rates if rate > 0)

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Yield the finding when it is certain."""
        course = self.watched.course
        if "loss" not in scalars or course.blamed:
            return
        if course.lost is not None:
            yield self._finding("the loss leaves for good when the learning rate is raised")
            return
        if course.has_learned:
            return
        loss = scalars["loss"]
        if not math.isfinite(loss):
            self._broke = self._broke or step
        if not course.largest_update >= _LARGE and not self._is_beyond(loss):
            return
        last = course.last(5)
        if self._broke is not None:
            if course.largest_update >= _HUGE or self._peak() >= 3:
                yield self._finding("the loss rises from the first steps on until it is not finite")
        elif len(last) == 5 and all(course.rose(x, 2) for x in last) and self._peak() >= 3:
            yield self._finding("the loss rises from the first steps on")
        elif course.count in (_ENOUGH, _LONG):
            yield from self._plateau()

    def end(self) -> Iterator[Finding]:
        """Yield the finding of a short run."""
        course = self.watched.course
        if course.blamed:
            return
        thrown = course.count >= _LONG and course.largest_update >= _HUGE
        if thrown or (not course.has_learned and _AT_END <= course.count < _ENOUGH):
            yield from self._plateau()

    def _is_beyond(self, loss: float) -> bool:
        """Whether ``loss`` is so high that it says enough where no update was measured."""
        last = self.watched.course.last(5)
        growing = len(last) == 5 and all(b > 1.2 * a for a, b in pairwise(last))
        return self._broke is None and growing and self.watched.course.rose(loss, 1e3)

    def _plateau(self) -> Iterator[Finding]:
        course = self.watched.course
        if not course.largest_update >= _LARGE:
            return
        middle = median(course.last(min(10, course.count // 2)))
        update, peak = course.largest_update, self._peak(3)
        jumped = peak >= 3 and course.rose(middle, 0.9)
        long = course.count >= _LONG and update >= _HUGE
        thrown = long and peak >= 1.7 and course.rose(middle, 0.85)
        if jumped or thrown or (update >= _REPLACED and course.rose(middle, 0.95)):
            yield self._finding("the first updates replace the weights, and nothing is learned")

    def _peak(self, together: int = 1) -> float:
        """The highest of the early losses, relative to the first one; 1 is no rise.

        With ``together`` = 3 it is the highest median of three: one of them may be a small batch's.
        """
        course = self.watched.course
        early = [x if math.isfinite(x) else 0.0 for _, x in course.early[:20]]
        last = max(1, len(early) - together + 1)
        highest = max(median(early[i : i + together]) for i in range(last))
        return 1 + (highest - course.initial) / max(abs(course.initial), 1e-8)

    def _finding(self, cause: str) -> Finding:
        course = self.watched.course
        course.blamed.add("GB314")
        after = list(course.early[1:])
        first = next((s for s, x in after if course.rose(x, 2)), None)
        numbers: dict[str, float] = {
            "first loss": course.initial,
            "highest early loss": course.initial + (self._peak() - 1) * abs(course.initial),
            "last loss": course.recent[-1][1],
            "median update ÷ weight": course.largest_update,
        }
        if self._rates:
            numbers["learning rate"] = max(self._rates)
        if self._broke is not None:
            numbers["step of the first loss that is not finite"] = self._broke
        return Finding(
            severity="error",
            layer="",
            cause=cause,
            numbers=numbers,
            fix='for group in optimizer.param_groups:\n    group["lr"] *= 0.1',
            cost=f"loss {course.recent[-1][1]:.3g} after {course.count} steps, "
            f"{course.initial:.3g} before the first",
            step=course.lost or first or self._broke or course.early[0][0],
        )
