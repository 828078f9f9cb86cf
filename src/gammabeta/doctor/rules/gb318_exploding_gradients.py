"""Gradients explode on their way to the first layers.

## What it is

Each layer multiplies the gradient by more than one: weights that are initialized too large, a
recurrent network over many steps, deep sums without norms. The first layers get a gradient that is
orders of magnitude larger than the last ones.

## Why it matters

The first step throws the first layers away. A learning rate that is small enough for them is too
small for the others.

## How it is detected

In the first recorded frames (of the first three steps, when the weights are still those of the
initialization): the norm of the gradient with respect to each layer's output z grows by more than
300 (10⁴ if there are fewer than four layers) from the last layers to the first ones, in most of the
layers between, and the gradient of the weights is above 10 times their norm somewhere. Or the
gradient of a weight is above 10³ times the median of the others, and above 100 times its own norm,
as that of a recurrent weight. Gradients are those that the optimizer uses: a run that clips them is
healthy; loss scales are divided out.
Later: the gradients of all weights together are 10³ times what is usual in this run, in two frames.

## Fix

```python
nn.init.kaiming_normal_(layer.weight)  # and a norm after each layer
torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()
```

## Source

Pascanu, Mikolov & Bengio 2013, arXiv:1211.5063; Hanin 2018, arXiv:1801.03744.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.course import Look
from gammabeta.signal.attending import Recorded

_GROWTH, _STEEP, _LARGE = 300.0, 1e4, 10.0
_APART, _HUGE = 1e3, 100.0
_SUDDEN, _HISTORY = 1e3, 5
_LAYERS = 4
_FIX = (
    "nn.init.kaiming_normal_(layer.weight)  # and a norm after each layer\n"
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # before optimizer.step()"
)


@while_training(
    "GB318", "exploding-gradients", "gradients explode on their way to the first layers"
)
class Rule(TrainingRule):
    """Compares the gradients of the first layers with those of the last."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._totals: list[float] = []
        self._sudden: list[tuple[int, str, float]] = []

    def frame(self, frame: Recorded) -> Iterator[Finding]:
        """Look at the gradients of a frame."""
        course = self.watched.course
        if course.blamed:
            return
        look = course.looks[-1]
        if frame.step <= course.looks[0].step + 2 and not course.has_learned:
            found = _profile(look) or _single(look)
            if found is not None:
                course.blamed.add("GB318")
                yield found
                return
        yield from self._over_time(look)

    def _over_time(self, look: Look) -> Iterator[Finding]:
        norms = {n: w.gradient for n, w in look.weights.items() if math.isfinite(w.gradient)}
        if not norms:
            return
        total = math.sqrt(sum(g * g for g in norms.values()))
        usual = median(self._totals) if len(self._totals) >= _HISTORY else math.inf
        # A gradient that had become tiny because everything was learned may well grow again.
        largest = max((w.gradient / w.norm for w in look.weights.values() if w.norm), default=0.0)
        if not (total > _SUDDEN * usual and largest > _LARGE):
            self._sudden.clear()
            self._totals.append(total)
            return
        self._sudden.append((look.step, max(norms, key=lambda n: norms[n]), total))
        if len(self._sudden) == 2:
            step, layer, height = self._sudden[0]
            self.watched.course.blamed.add("GB318")
            yield Finding(
                severity="error",
                layer=layer,
                cause="the gradients suddenly are a thousand times as large as usual",
                numbers={"norm of all gradients": height, "usual": usual},
                fix=_FIX,
                step=step,
            )


def _profile(look: Look) -> Finding | None:
    """Return the finding if gradients grow layer by layer toward the input."""
    names = list(look.signals)
    norms = [look.signals[name] for name in names]
    if len(names) < 2 or not all(0 < g < math.inf for g in norms):
        return None
    last = median(norms[-max(1, len(norms) // 4) :])
    growing = sum(a > 0.9 * b for a, b in pairwise(norms)) / (len(norms) - 1)
    ratios = [w.gradient / w.norm for w in look.weights.values() if w.norm > 0]
    relative = max((r for r in ratios if not math.isnan(r)), default=0.0)
    least = _GROWTH if len(names) >= _LAYERS else _STEEP
    if max(norms) < least * last or growing < 0.6 or relative < _LARGE:
        return None
    halfway = math.sqrt(max(norms) * last)
    flooded = [name for name, norm in look.signals.items() if norm > halfway]
    return Finding(
        severity="error",
        layer=flooded[0],
        layers=tuple(flooded),
        cause="the gradient grows layer by layer on its way to this one",
        numbers={
            "largest gradient ÷ that of the last layers": max(norms) / last,
            "largest gradient ÷ weight": relative,
        },
        fix=_FIX,
        step=look.step,
    )


def _single(look: Look) -> Finding | None:
    """Return the finding if the gradient of one weight is far above those of the others."""
    norms = {n: w.gradient for n, w in look.weights.items() if 0 < w.gradient < math.inf}
    for name, norm in norms.items():
        others = [g for other, g in norms.items() if other != name]
        weight = look.weights[name].norm
        if others and weight and norm > _APART * median(others) and norm > _HUGE * weight:
            return Finding(
                severity="error",
                layer=_module_of(name),
                layers=tuple(dict.fromkeys((_module_of(name), name))),
                cause="the gradient of its weights is a thousand times that of the other layers",
                numbers={"gradient norm": norm, "median of the others": median(others)},
                fix=_FIX,
                step=look.step,
            )
    return None


def _module_of(row: str) -> str:
    """Return the module that a row belongs to: that of ``rnn.weight_hh_l0`` is ``rnn``."""
    module, _, name = row.rpartition(".")
    return module if module and name.startswith(("weight_", "in_proj")) else row
