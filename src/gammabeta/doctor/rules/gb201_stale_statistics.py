"""The running statistics are far from those of the batches, and evaluation suffers.

## What it is

Evaluation normalizes by ``running_mean`` and ``running_var``. If they are not those of the data
under the present weights, every layer after them sees a signal that it was not trained on.

## Why it matters

It is the classic way in which training looks good and evaluation bad: too few steps, weights
averaged without statistics, another domain or another preprocessing, a small momentum, statistics
of another checkpoint.

## How it is detected

The first batches are run with batch norms in training mode, and the statistics of their inputs are
pooled. Both of these must hold:

- *The running statistics are far from the pooled ones*: by more than 0.35 σ, or 35 % of the
  variance (1 σ or 50 % if there is no loss), beyond three standard errors of the pooled statistics
  and of an exponential average of batches. Healthy trainings at a large learning rate reach 0.3 σ
  and 30 %, because the average lags behind the weights. The mean of the first norm cannot lag if
  the model's inputs are centered and one layer is between: for it, 0.15 σ is far.
- *Evaluation suffers*: the model is evaluated on the same batches with its own statistics and with
  the pooled ones. If the pooled ones lower the loss by 10 % or raise the accuracy by 2 points, it
  is a warning; by 50 % or 10 points, an error. The outputs must also change by a tenth of their
  spread, and 5 % of what the model has learned must be lost, so that noise in losses near 0 does
  not count (1.5 %, if every batch is better, and by a half on average). Without a loss, outputs
  that change by 30 % of their spread are a warning, and by more than their spread an error.

If evaluation does not suffer, 0.35 σ or 50 % of the variance are information.

Silent cases:

- norms at their initial statistics, in the cases that GB106 reports;
- a model that has learned nothing, because its loss is not below that of its own mean output (if
  all statistics are initial, as in a new model, it must be clearly below, and the accuracy 10
  points too low);
- norms that ``train()`` leaves in evaluation, and batches that are not random (see GB207);
- distances that what is left of the initial values explains, while their weight in the average is
  below 5 %: after a few dozen steps this happens if variances are small, and a few more steps mend
  it. With a loss, they are information.

## Fix

```python
gb.calibrate(model, batches)
```

## Source

Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2; Izmailov et al. 2018, arXiv:1803.05407
(``update_bn`` after averaging); Wu & Johnson 2021, arXiv:2105.07576.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from gammabeta.doctor.evidence import Evidence, LossError, Pass, loss_of
from gammabeta.doctor.evidence.composition import dependence
from gammabeta.doctor.evidence.dropout import explains
from gammabeta.doctor.evidence.part import distance as apart
from gammabeta.doctor.evidence.part import found_in_model, outputs
from gammabeta.doctor.evidence.staleness import Distance, distances
from gammabeta.doctor.finding import Finding, Number
from gammabeta.doctor.model.initial import is_initial
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject
from gammabeta.statistics.preserve import preserved

_WITH_LOSS, _WITHOUT = (0.35, 0.3), (1.0, 0.4)
"""Shift of the means in σ and logarithm of the variances' ratio that a running average does not
reach by following a training, also a fast one; if there is a loss, and if there is none."""
_FIRST = (0.15, 0.3)
"""The same for the first norm of a model of centered inputs, whose mean does not lag."""
_HARMLESS = (0.35, 0.4)
"""The same of what is information if evaluation does not suffer."""
_CENTERED = 0.1
"""Largest mean of centered inputs, in σ."""
_ELSEWHERE = ("GB101", "GB102", "GB103", "GB104", "GB105", "GB106", "GB107")
_LOSS = {"error": 1.5, "warning": 1.1}
"""Factor by which the loss is higher with the running statistics."""
_ACCURACY = {"error": 0.1, "warning": 0.02}
"""Accuracy that they cost."""
_OUTPUTS = {"error": 1.0, "warning": 0.3}
"""Change of the outputs in units of their spread, if there is no loss."""
_VISIBLE = 0.1
"""Least change of the outputs, if there is a loss."""
_MOVED = 0.05
"""Layers this far beyond chance are named, too, if others are surely stale."""
_LEARNED = 0.97
"""A model that has learned has a loss below this much of that of its mean output."""
_SURELY = 0.7
"""The same, if all statistics are at their initial values, as those of a new model are."""
_SHARE, _LEAST_SHARE = 0.05, 0.015
"""Least share of what was learned that is lost: losses near 0 have ratios of any size. The second
one is enough if all batches agree on an error."""


@on_batches("GB201", "stale-statistics", "running statistics are far from those of the batches")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the model, named after the layer that is furthest away."""
    norms = {norm.path: norm for norm in subject.batch_norms}
    initial = {path for path, norm in norms.items() if is_initial(norm)}
    untouched = all(path in initial for path in evidence.targets)
    if found_in_model(subject) or (untouched and subject.loss is None):
        return
    if any(call.by_batch for p in evidence.evaluated for call in p.calls):
        return  # evaluation does not use them: GB202, GB203
    still = _still(subject)
    every = {
        path: each
        for path, each in distances(evidence).items()
        if path in norms and path not in still and (untouched or path not in initial)
    }
    limits = _WITH_LOSS if evidence.evaluated[0].loss is not None else _WITHOUT
    first = _first(evidence) if limits is _WITH_LOSS else ""
    far = _far(every, limits, first)
    warming = bool(far) and not _far(distances(evidence, warm=True), limits, first).keys() & far
    if limits is _WITHOUT and warming:
        return
    if not far or any(subject.is_explained(path, _ELSEWHERE) for path in evidence.statistics):
        return
    damage = _damage(subject, evidence, _SURELY if untouched else _LEARNED)
    if damage is None and limits is _WITH_LOSS and not untouched:
        far = {p: each for p, each in far.items() if p == first or each.exceeds(*_HARMLESS)}
        damage = _Damage("info", "", {}) if far else None
    if damage is None or dependence(subject, evidence) is not None or explains(evidence):
        return  # the last one is GB209
    severity = "info" if warming else damage.severity
    worst = max(far, key=lambda path: far[path].largest)
    moved = [path for path, each in every.items() if each.largest > _MOVED]
    yield Finding(
        severity=severity,
        layer=worst,
        layers=tuple(dict.fromkeys((worst, *far, *moved))),
        cause="the running statistics are not those of these batches under the present weights",
        numbers={
            "largest distance of means in σ": far[worst].shift,
            "expected by chance": far[worst].noise,
            "largest ratio of variances": math.exp(far[worst].ratio),
            "layers": len(far),
            **damage.numbers,
        },
        cost=damage.text,
        fix="gb.calibrate(model, batches)",
    )


def _far(
    every: dict[str, Distance], limits: tuple[float, float], first: str
) -> dict[str, Distance]:
    """Return the layers that are above the limits; the first one has limits of its own."""
    return {
        path: each
        for path, each in every.items()
        if each.exceeds(*limits) or (path == first and each.exceeds(*_FIRST))
    }


def _first(evidence: Evidence) -> str:
    """Return the path of the first norm, if its input is a linear function of centered inputs."""
    x, ran = evidence.input(0), evidence.evaluated[0]
    if x is None or not x.is_floating_point() or x.dim() < 2 or not ran.calls:
        return ""
    first = ran.calls[0]
    if ran.outputs and ran.outputs[0].layer not in (first.layer, first.source):
        return ""
    z = x.detach().double().movedim(1, 0).flatten(1)
    square = (z.mean(1) / z.std(1).clamp_min(1e-12)).square().mean()
    return first.layer if float(square) <= _CENTERED**2 + 2 / len(x) else ""


@dataclass(frozen=True)
class _Damage:
    severity: str
    text: str
    numbers: dict[str, Number]


def _damage(subject: Subject, evidence: Evidence, learned: float = _LEARNED) -> _Damage | None:
    """Return what evaluation loses, compared with the statistics of the batches."""
    both = list(zip(evidence.evaluated, evidence.calibrated, strict=False))
    changes = [_change(a, b) for a, b in both]
    if not changes:
        return None
    change = sum(changes) / len(changes)
    if any(a.loss is None or b.loss is None for a, b in both):
        severity = _level(change, _OUTPUTS)
        text = f"the outputs change by {change:.0%} of their spread after calibration"
        return _Damage(severity, text, {"change of outputs": change}) if severity else None
    before, after = (_mean([p.loss for p in each]) for each in zip(*both, strict=True))
    accuracies = [_mean([p.accuracy for p in each]) for each in zip(*both, strict=True)]
    lower = accuracies[1] - accuracies[0]
    severity = None
    if not math.isnan(lower):
        severity = _level(lower, _ACCURACY)
    by_loss = before > after + 1e-6 and _level((before - after) / abs(after or 1e-9) + 1, _LOSS)
    better = sum(float(a.loss or 0) > float(b.loss or 0) for a, b in both)
    if math.isinf(before) and math.isfinite(after):
        by_loss = "error"
    if math.isnan(lower):
        severity = by_loss or None
    elif by_loss and lower >= 0:
        severity = severity if by_loss == "warning" and severity else by_loss
    if not severity or change < _VISIBLE or 2 * better <= len(both):
        return None
    chance = _constant_loss(subject, evidence)
    if learned < _LEARNED and (chance is None or math.isnan(lower) or lower < _ACCURACY["error"]):
        return None
    if chance is not None and after > learned * chance:
        return None
    by_accuracy = not math.isnan(lower) and lower >= _ACCURACY["warning"]
    sure = by_loss == "error" and better == len(both)
    share = _LEAST_SHARE if sure else _SHARE
    if chance is not None and not by_accuracy and before - after < share * (chance - after):
        return None
    numbers: dict[str, Number] = {"loss before": before, "loss after calibration": after}
    text = f"evaluation loss {before:.3g} instead of {after:.3g}"
    if not math.isnan(lower):
        numbers |= {"accuracy before": accuracies[0], "accuracy after calibration": accuracies[1]}
        text += f", accuracy {accuracies[0]:.1%} instead of {accuracies[1]:.1%}"
    return _Damage(severity, text, numbers)


def _level(value: float, limits: dict[str, float]) -> str | None:
    return next((name for name, least in limits.items() if value >= least), None)


def _change(before: Pass, after: Pass) -> float:
    pairs = zip(outputs(after.output), outputs(before.output), strict=False)
    found = [apart(a, b) for a, b in pairs if a.shape == b.shape]
    return max((x if math.isfinite(x) else math.inf for x in found), default=0.0)


def _constant_loss(subject: Subject, evidence: Evidence) -> float | None:
    """Return the loss of the mean output, which knows nothing of the input; None if unknown."""
    found = []
    for each in evidence.calibrated:
        y, target = each.output, evidence.target(each.batch)
        if not isinstance(y, Tensor) or subject.loss is None or target is None or y.dim() < 2:
            return None
        try:
            found.append(loss_of(subject.loss, y.mean(0, keepdim=True).expand_as(y), target))
        except LossError:
            return None
    return _mean(found)


def _still(subject: Subject) -> set[str]:
    """Return the paths of the norms that ``train()`` leaves in evaluation: they are frozen."""
    with preserved(subject.model):
        left = {n.path for n in subject.batch_norms if subject.model.training ^ n.module.training}
        subject.model.train()
        return {n.path for n in subject.batch_norms if not n.module.training} | left


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    mean = sum(known) / len(known) if known and len(known) == len(values) else math.nan
    return mean if not math.isnan(mean) or len(known) < len(values) else math.inf
