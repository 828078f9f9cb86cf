"""Updates are out of proportion to the weights.

## What it is

A weight that an optimizer moves by a thousandth of its size each step learns; one that moves by a
billionth stands still, and one that moves by its own size is noise. Or a parameter is not updated
at all, although gradients are computed for it: it is not in the optimizer.

## Why it matters

A head that was replaced after the optimizer was made, a parameter group with a learning rate of its
own, a schedule that ends at zero: the loss still falls, because the rest of the network learns.

## How it is detected

- *Not in the optimizer*: the version counter of a parameter has not moved for ten steps (at the end
  of a run, five), while it got a gradient that is not zero. If these are the first layers of the
  network and more than half of its parameters, the backbone is meant to be frozen: information.
- *The learning rate is 0* in twenty steps in a row, from the first one on.
- *Too small*: update ÷ weight of the median layer is below 10⁻⁶ in all frames, gradients are above
  10⁻⁵ of the weights, the learning rate does not rise, and the last ten losses are within 5% of
  the first ten.
- *Too large*: update ÷ weight of a layer is above 0.25 in two frames in a row, after steps 5 and 9
  (a weight that begins at zero is below by then), and the learning rate as a whole is not the cause
  (GB314).
- *Replaced*: the first update of a layer was as large as the weight itself and made it more than
  ten times as large as those of the median layer, whose updates were below 0.2 of the weights.
- *Unlike the others*: update ÷ weight per gradient ÷ weight (for SGD, the learning rate) of a layer
  is below 10⁻⁴ of that of the median layer, in two frames, and its update below 10⁻⁶. Its
  gradient is above 10⁻⁵ of the weight: with a tiny one, as behind a layer scale of 10⁻⁶, a usual
  learning rate of 0.01 gives updates that float32, which resolves 10⁻⁷, rounds to 0.

Weights that were initialized to zero move by their own size at first, and frozen ones not at all;
neither is reported, nor is a warm-up. The medians leave frozen layers out.

## Fix

```python
optimizer.add_param_group({"params": layer.parameters()})
```

## Source

Karpathy's CS231n notes, *Ratio of weights:updates* (around 10⁻³); documentation of
`torch.optim.Optimizer.add_param_group`.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import median

from torch import nn
from torch.nn.parameter import is_lazy

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import while_training
from gammabeta.doctor.training.clinic import TrainingRule, Watched
from gammabeta.doctor.training.course import Look, Weight
from gammabeta.doctor.training.passes import Step
from gammabeta.signal.attending import Recorded

_UNMOVED, _AT_END, _ZERO_RATE = 10, 5, 20
_TINY, _LEARNS = 1e-6, 1e-5
_LARGE, _SETTLED, _FRAMES = 0.25, 5, 2
_APART = 1e-4


@while_training("GB320", "update-ratio", "updates are out of proportion to the weights")
class Rule(TrainingRule):
    """Compares updates with weights, and finds parameters that no optimizer moves."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(watched)
        self._versions: list[tuple[str, weakref.ref[nn.Parameter], int]] = []
        self._with_gradient: set[str] = set()
        self._rates: list[float] = []
        self._steps = 0
        self._judged = False
        self._found: Finding | None = None
        self._still: set[str] = set()  # parameters beside trained ones that no optimizer moves
        self._parked = False  # whether a group has the learning rate 0 on purpose

    def step(self, step: Step) -> Iterator[Finding]:
        """Compare version counters, and look at the learning rates."""
        self._steps += 1
        self._parked = 0.0 in step.rates and any(step.rates)
        if step.rates and len(self._rates) < 256:
            self._rates.append(max(step.rates))
        if self._steps == 1:
            self._versions = [
                (path, weakref.ref(p), p._version)
                for path, p in self.watched.model.named_parameters()
                if p.requires_grad and not is_lazy(p)
            ]
        if self._steps in (2, _UNMOVED):
            self._note_gradients()
        if self._steps == _UNMOVED + 1:
            yield from self._unmoved(step.number)
        if self._steps == _ZERO_RATE and self._rates and not any(self._rates):
            self._blame()
            yield Finding(
                severity="error",
                layer="",
                cause="the learning rate is 0 in every step",
                numbers={"steps": self._steps},
                fix='for group in optimizer.param_groups:\n    group["lr"] = 1e-3',
                step=1,
            )

    def frame(self, frame: Recorded) -> None:
        """Compare the updates of a frame with those of the last ones."""
        looks = [look for look in self.watched.course.looks if look.weights]
        if self._judged or not looks or not self.watched.course.looks[-1].weights:
            return
        if len(looks) == 1:
            self._found = _replaced(looks[0])
        if len(looks) < _FRAMES or self._found is not None:
            return
        rows = {
            name: [look.weights[name] for look in looks[-_FRAMES:] if name in look.weights]
            for name in looks[-1].weights
        }
        large = [
            name
            for name, some in rows.items()
            if looks[-2].step - looks[0].step >= _SETTLED - 1
            and looks[-1].step - looks[0].step >= 2 * _SETTLED - 2
            and all(w.update > _LARGE for w in some)
        ]
        if large:
            self._found = Finding(
                severity="warning",
                layer=large[0],
                layers=tuple(large),
                cause="each update replaces a large part of its weights",
                numbers={"update ÷ weight": rows[large[0]][-1].update, "usual": 1e-3},
                fix='for group in optimizer.param_groups:\n    group["lr"] *= 0.01  # its group',
                step=looks[-_FRAMES].step,
            )
            return
        rates = {
            name: [w.update / (w.gradient / w.norm) for w in some if w.gradient > 0 and w.norm > 0]
            for name, some in rows.items()
        }
        usual = median([median(r) for r in rates.values() if r] or [0.0])
        slow = [
            name
            for name, some in rates.items()
            if len(some) == _FRAMES
            and max(some) < _APART * usual
            and max(w.update for w in rows[name]) < _TINY
            and all(w.gradient > _LEARNS * w.norm for w in rows[name])
            and self._moves(name)
        ]
        # If all layers stand still, the learning rate as a whole is too small.
        moving = max(w.update for w in looks[-1].weights.values()) > 10 * _TINY
        if slow and moving and not self._parked:
            self._found = Finding(
                severity="warning",
                layer=slow[0],
                layers=tuple(slow),
                cause="it hardly moves, although its gradient is as large as that of the others",
                numbers={"update ÷ weight": rows[slow[0]][-1].update, "usual": 1e-3},
                fix='for group in optimizer.param_groups:\n    group["lr"] = 1e-3  # its group',
                step=looks[-_FRAMES].step,
            )

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterator[Finding]:
        """Yield the finding, once the rules before have judged the losses."""
        if self.watched.course.count > 31:
            yield from self._say()

    def end(self) -> Iterator[Finding]:
        """Yield the findings of a short run, and of a learning rate that is too small."""
        if _AT_END < self._steps <= _UNMOVED:
            self._note_gradients()
            yield from self._unmoved(self.watched.steps)
        yield from self._say()
        yield from self._standing()

    def _say(self) -> Iterator[Finding]:
        found, self._found = self._found, None
        if found is not None and not self._judged and not self.watched.course.blamed:
            self._blame()
            yield found

    def _blame(self) -> None:
        self._judged = True
        self.watched.course.blamed.add("GB320")

    def _moves(self, row: str) -> bool:
        """Whether a row is that of a parameter that requires gradients."""
        return any(path in (row, f"{row}.weight") for path, _, _ in self._versions)

    def _trained(self, weights: Mapping[str, Weight]) -> dict[str, Weight]:
        """Leave out the rows of frozen parameters, and of those that no optimizer moves."""
        frozen = {path for path, p in self.watched.model.named_parameters() if not p.requires_grad}
        left = self._still | frozen
        return {n: w for n, w in weights.items() if n not in left and f"{n}.weight" not in left}

    def _note_gradients(self) -> None:
        for path, ref, version in self._versions:
            p = ref()
            if p is None or p._version != version or path in self._with_gradient:
                continue
            if p.grad is not None and (p.grad.device.type != "cpu" or bool(p.grad.any())):
                self._with_gradient.add(path)

    def _unmoved(self, number: int) -> Iterator[Finding]:
        """Yield the finding of parameters that no optimizer has moved."""
        still, moved = [], []
        sizes = {True: 0, False: 0}
        for path, ref, version in self._versions:
            p = ref()
            if p is None:
                continue
            is_still = p._version == version
            sizes[is_still] += p.numel()
            if not is_still:
                moved.append(path)
            elif path in self._with_gradient:
                still.append(path)
        if not still:
            return
        order = [path for path, _, _ in self._versions]
        is_prefix = bool(moved) and order.index(still[-1]) < order.index(moved[0])
        meant = is_prefix and sizes[True] > sizes[False]
        self._still.update(path for path in still if moved)
        layers = tuple(dict.fromkeys(path.rpartition(".")[0] for path in still))
        if not meant:
            self._blame()
        yield Finding(
            severity="info" if meant else "error" if not moved else "warning",
            layer=layers[0] if moved else "",
            layers=layers if moved else ("", *layers),
            cause="it gets gradients, but no optimizer moves it"
            if moved
            else "its parameters get gradients, but no optimizer moves them",
            numbers={"parameters": sum(1 for _ in still), "steps": self._steps},
            fix="layer.requires_grad_(False)  # if it is meant to be frozen"
            if meant
            else "optimizer.add_param_group("
            + ('{"params": layer.parameters()})' if moved else '{"params": model.parameters()})'),
            step=number - self._steps + 1,
        )

    def _standing(self) -> Iterator[Finding]:
        """Yield the finding of a learning rate with which nothing happens."""
        course = self.watched.course
        looks = [look for look in course.looks if look.weights]
        if self._judged or course.blamed or not looks or course.count < _ZERO_RATE:
            return
        looks = [replace(look, weights=self._trained(look.weights)) for look in looks]
        updates = [u for look in looks if not math.isnan(u := look.update)]
        gradients = [
            w.gradient / w.norm for w in looks[-1].weights.values() if w.gradient > 0 and w.norm > 0
        ]
        rising = bool(self._rates) and self._rates[-1] > 1.5 * self._rates[0]
        if rising or not updates or max(updates) >= _TINY or not gradients:
            return
        first = median(loss for _, loss in course.early[:10])
        change = abs(median(course.last(10)) - first)
        if median(gradients) < _LEARNS or not change <= 0.05 * abs(first):
            return
        self._blame()
        yield Finding(
            severity="warning",
            layer="",
            cause="its weights stand still: the learning rate is too small",
            numbers={
                "median update ÷ weight": median(updates),
                "learning rate": max(self._rates) if self._rates else None,
            },
            fix='for group in optimizer.param_groups:\n    group["lr"] = 1e-3',
            cost=f"loss {course.recent[-1][1]:.3g}, as before the first step",
            step=1,
        )


def _replaced(look: Look) -> Finding | None:
    """Return the finding of weights that the first step has thrown away, unlike the others."""
    thrown = []
    for name, weight in look.weights.items():
        others = [w for other, w in look.weights.items() if other != name]
        if not others or not weight.update > 0.9:
            continue
        if median(w.update for w in others) < 0.2 and weight.rms > 10 * median(
            w.rms for w in others
        ):
            thrown.append(name)
    if not thrown:
        return None
    return Finding(
        severity="warning",
        layer=thrown[0],
        layers=tuple(thrown),
        cause="the first update is many times as large as its weights, unlike those of the others",
        numbers={"update ÷ weight": look.weights[thrown[0]].update, "of the others": look.update},
        fix='for group in optimizer.param_groups:\n    group["lr"] *= 0.01  # its group',
        step=look.step,
    )
