"""The damage of a fault, measured: the loss with it and without it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gammabeta.doctor.evidence.forward_pass import Pass
from gammabeta.doctor.subject import Subject

WORSE = 1.1
"""A loss this much higher is damage: a warning."""
MUCH_WORSE = 1.5
"""A loss this much higher is an error."""


@dataclass(frozen=True)
class Damage:
    """Two losses on the same batches.

    Attributes:
        with_it: with the fault; infinite if it is not a number.
        without: without it.
    """

    with_it: float
    without: float

    @property
    def severity(self) -> str:
        """``"error"``, ``"warning"``, or ``"info"`` if the loss is about the same or lower."""
        if not math.isfinite(self.without):
            return "info"
        worse = self.with_it - self.without
        for severity, factor in (("error", MUCH_WORSE), ("warning", WORSE)):
            if worse > (factor - 1) * abs(self.without) + 1e-6:
                return severity
        return "info"

    @property
    def text(self) -> str:
        """What it costs, in words."""
        return f"evaluation loss {self.with_it:.3g} instead of {self.without:.3g}"


def of_statistics(subject: Subject, layers: Iterable[str]) -> Damage | None:
    """Return what the running statistics of ``layers`` cost; None if it cannot be measured.

    The evaluation loss is compared with the one after a calibration of all batch norms.
    """
    evidence: Any = subject.evidence
    try:
        if evidence is None or not set(layers) & set(evidence.statistics):
            return None
        return _compared(evidence.evaluated, evidence.calibrated)
    except Exception:  # the batches do not serve: too small for a variance, for example
        return None


def of_batch_statistics(subject: Subject) -> tuple[float, float] | None:
    """Return the losses with norms in training mode and in evaluation; None if there are none.

    Dropout is off in both.
    """
    evidence: Any = subject.evidence
    try:
        if evidence is None:
            return None
        found = _compared(evidence.trained, evidence.evaluated)
    except Exception:
        return None
    return None if found is None else (found.with_it, found.without)


def _compared(first: list[Pass], second: list[Pass]) -> Damage | None:
    others = {each.batch: each.loss for each in second}
    both = [(each.loss, others.get(each.batch)) for each in first]
    losses = [(a, b) for a, b in both if a is not None and b is not None]
    if not losses:
        return None
    return Damage(*(_mean(each) for each in zip(*losses, strict=True)))


def _mean(losses: Iterable[float]) -> float:
    values = list(losses)
    mean = sum(values) / len(values)
    return math.inf if math.isnan(mean) else mean
