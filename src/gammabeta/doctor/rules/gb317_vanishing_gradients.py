"""Gradients vanish on their way to the first layers.

## What it is

Each layer multiplies the gradient by less than one: sigmoids (at most ¼), weights that are
initialized too small, deep networks without norms or skip connections. The first layers get a
gradient that is orders of magnitude smaller than the last ones, and stay at random.

## Why it matters

The last layers learn from random features; the loss stops at a plateau. Adam hides a part of it:
it divides by the gradient's size, until that is as small as its ε (10⁻⁸) or as rounding errors.

## How it is detected

Of each recorded frame, the norm of the gradient with respect to each layer's output z, in the order
of the network, relative to the median of the last quarter of the layers. The first layers have
vanishing gradients if theirs is below 10⁻⁴ in three frames or more and does not grow by more than
1.3 from the first of them to the last, or in two frames five steps apart and does not grow by more
than 3 (behind a layer that was initialized to zero, gradients begin tiny and grow). At the end of a
run that has fewer frames, those that began with the first one are enough. Gradients that are
exactly zero are another fault (GB319). Between 10⁻⁶ and 10⁻⁴ the layers' last update must also be
below 10⁻⁵ of the weights, as far as it was recorded, so that an optimizer that makes up for it is
not blamed. The layer is the one nearest to the loss whose gradient is below; the others are those
before it.

## Fix

```python
nn.Sequential(nn.Linear(n, n, bias=False), nn.BatchNorm1d(n), nn.ReLU())  # instead of a sigmoid
```

## Source

Hochreiter 1991, *Untersuchungen zu dynamischen neuronalen Netzen* (thesis, TU Munich); Glorot &
Bengio 2010, *Understanding the difficulty of training deep feedforward neural networks*; Ioffe &
Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.course import Look
from gammabeta.signal.attending import Recorded

_SMALL, _TINY = 1e-4, 1e-6
_STILL = 1e-5
_LAYERS = 4


@while_training("GB317", "vanishing-gradients", "gradients vanish on their way to the first layers")
class Rule(TrainingRule):
    """Compares the gradients of the first layers with those of the last."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._seen: list[tuple[int, float]] = []
        self._updates: dict[str, float] = {}
        self._found: Finding | None = None
        self._sure = False

    def frame(self, frame: Recorded) -> None:
        """Look at the gradients of a frame."""
        look = self.watched.course.looks[-1]
        for name, weight in look.weights.items():
            self._updates[name] = weight.update
        starved, reference = _starved(look)
        if not starved:
            self._seen.clear()
            self._found, self._sure = None, False
            return
        share = min(look.signals[name] for name in starved) / reference
        self._seen.append((frame.step, share))
        first_step, first_share = self._seen[0]
        steps, grown = frame.step - first_step, share / first_share
        soon = len(self._seen) >= 3 and steps >= 2 and grown <= 1.3
        later = len(self._seen) >= 2 and steps >= 5 and grown <= 3
        self._sure = soon or later
        if not self._sure and first_step != self.watched.course.looks[0].step:
            return
        updates = [u for name in starved if (u := self._updates.get(name, 0.0)) == u]
        if share > _TINY and updates and median(updates) > _STILL:
            return
        self._found = Finding(
            severity="error" if share < _TINY else "warning",
            layer=starved[-1],
            layers=tuple(reversed(starved)),
            cause="the gradient vanishes between the last layers and this one",
            numbers={
                "smallest gradient ÷ that of the last layers": share,
                "gradient of the last layers": reference,
                "layers without a gradient": len(starved),
                "median update ÷ weight": median(updates) if updates else None,
            },
            fix="nn.Sequential(nn.Linear(n, n, bias=False), nn.BatchNorm1d(n), nn.ReLU())"
            "  # a norm and ReLU instead of a sigmoid or tanh; or init with the gain",
            step=first_step,
        )

    def end(self) -> Iterator[Finding]:
        """Yield the finding of the last frames."""
        yield from self._say()

    def numbers(self, *_: object) -> Iterator[Finding]:
        """Yield the finding, once the rules before have judged the losses."""
        if self._sure and self.watched.course.count >= 10:
            yield from self._say()

    def _say(self) -> Iterator[Finding]:
        found, self._found = self._found, None
        if found is not None and not self.watched.course.blamed:
            self.watched.course.blamed.add("GB317")
            yield found


def _starved(look: Look) -> tuple[list[str], float]:
    """Return the first layers whose gradients are tiny, and the gradient of the last ones."""
    names = list(look.signals)
    if len(names) < _LAYERS:
        return [], 0.0
    norms = [look.signals[name] for name in names]
    reference = median(norms[-max(1, len(norms) // 4) :])
    starved = []
    for name, norm in zip(names, norms, strict=True):
        if not 0 < norm < _SMALL * reference:
            break
        starved.append(name)
    return starved, reference
