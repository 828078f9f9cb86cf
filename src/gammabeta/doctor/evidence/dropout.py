"""What dropout does to the variance that batch norms see."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from torch import Tensor

from gammabeta.doctor.evidence.forward_pass import Call, Pass
from gammabeta.doctor.evidence.gather import Evidence

SHIFTED = 1.03
"""A variance this many times larger with dropout than without is a shift."""
_CLEAR = 1.15
"""A shift this large can be recognized in the running variance."""
_REACHED = 0.1
"""Least share of channels that dropout reaches; others may come past it, concatenated."""
_CLOSE = 0.4
"""Running variances no further from those with dropout than this share of the shift are theirs, in
the median of the channels: that of a single one is known only to a few tens of percent."""
_DROP = re.compile("[Dd]rop")


@dataclass(frozen=True)
class Shift:
    """A batch norm whose input has another variance with dropout than without.

    Attributes:
        layer: path of the norm.
        ratio: the variance with dropout by that without, the median of the channels it reaches.
        learned: whether the running variance is the one with dropout.
        source: path of the dropout before it; "" if it is not known.
    """

    layer: str
    ratio: float
    learned: bool
    source: str


def shifts(evidence: Evidence) -> list[Shift]:
    """Return the batch norms whose input has another variance with dropout, the worst first."""
    on = evidence.with_dropout
    if on is None:
        return []
    off = next(p for p in evidence.trained if p.batch == on.batch)
    found = []
    for path in evidence.targets:
        pairs = list(zip(on.of(path), off.of(path), strict=False))
        pairs = [(a, b) for a, b in pairs if _comparable(a, b)]
        if not pairs:
            continue
        norm = evidence.targets[path]
        first, second = pairs[0]
        logs = _logs(first.var, second.var, 0.0)
        reached = (logs.abs() > 1e-6) & (second.var > 1e-12)
        if reached.double().mean() < _REACHED:
            continue
        ratio = float(logs[reached].median())
        size = math.exp(ratio)
        if size < SHIFTED:
            continue
        _, pooled = evidence.statistics[path]  # of all batches, without dropout
        learnt = _logs(norm.running_var.double(), pooled, float(norm.eps))[reached]
        rest = float(learnt.median()) - ratio
        moved = bool(norm.running_mean.any())  # else they are at their initial values
        learned = moved and abs(rest) <= _CLOSE * ratio and size >= _CLEAR
        found.append(Shift(path, size, learned, _dropout_before(on, path)))
    return sorted(found, key=lambda each: -each.ratio)


def explains(evidence: Evidence) -> bool:
    """Whether running statistics are off because they were gathered with dropout before a norm."""
    found = shifts(evidence)
    return bool(found) and found[0].learned


def _comparable(a: Call, b: Call) -> bool:
    known = a.var is not None and b.var is not None and a.finite and b.finite
    return known and a.by_batch and b.by_batch and a.var.shape == b.var.shape


def _logs(a: Tensor, b: Tensor, eps: float) -> Tensor:
    return ((a.to(b) + eps).clamp(min=1e-30) / (b + eps).clamp(min=1e-30)).log()


def _dropout_before(p: Pass, path: str) -> str:
    """Path of the last dropout that was at work before the norm at ``path``."""
    last = ""
    for o in p.outputs:
        if o.layer == path:
            return last
        if _DROP.search(type(o.module).__name__):
            last = o.layer
    return ""
