"""Dropout before a batch norm: the variance in evaluation is not that of training.

## What it is

Dropout keeps the mean of its input and raises the variance, in training only. A batch norm behind
it puts the raised variance into its running statistics. In evaluation, dropout is off, the variance
is lower, and the norm divides by too much.

## Why it matters

Every batch norm behind a dropout gives a smaller signal in evaluation than in training ("variance
shift"). The layers after it were not trained on that.

## How it is detected

One batch is run with batch norms in training mode, once with dropout and once without. A batch norm
whose input variance is at least 1.03 times larger with dropout (the median of the channels that it
reaches) is reported: information, unless it is 1.15 times larger and the running variance is the
one with dropout. Then the damage is measured: the evaluation loss with these statistics, and with
those of a calibration, which gathers them without dropout. Without a loss, a variance 1.3 times
larger is a warning. Dropout in front of a residual sum shifts the variance less, and the
measurement says by how much. Silent with p = 0, without batch norm, for layer norm (it keeps no
statistics), and for alpha dropout (which keeps the variance).

## Fix

```python
model.dropout.p = 0.0  # or move the dropout behind the last batch norm
gb.calibrate(model, batches)  # statistics without dropout
```

## Source

Li et al. 2018, Understanding the disharmony between dropout and batch normalization by variance
shift, arXiv:1801.05134.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.evidence import Evidence
from gammabeta.doctor.evidence.damage import of_statistics
from gammabeta.doctor.evidence.dropout import Shift, shifts
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_STRONG = 1.3


@on_batches("GB209", "dropout-before-norm", "dropout before a batch norm shifts the variance")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each batch norm whose input variance dropout raises."""
    found = shifts(evidence)
    learned = [each for each in found if each.learned]
    damage = of_statistics(subject, [each.layer for each in learned]) if learned else None
    for each in found:
        severity = "info"
        if each.learned and damage is not None:
            severity = damage.severity
        elif each.learned and each.ratio >= _STRONG:
            severity = "warning"
        if subject.is_explained(each.layer, ("GB102", "GB103", "GB106", "GB107", "GB201")):
            severity = "info"
        yield Finding(
            severity=severity,
            layer=each.layer,
            layers=(each.layer, each.source) if each.source else (each.layer,),
            cause="dropout before it raises the variance of its input in training; evaluation, "
            "without dropout, still divides by the larger variance",
            numbers={
                "variance with dropout / without": round(each.ratio, 3),
                "running variance is that with dropout": each.learned,
            },
            cost=damage.text if damage is not None and each.learned else "",
            fix=_fix(each),
        )


def _fix(shift: Shift) -> str:
    first = f"{access(shift.source)}.p = 0.0" if shift.source else "dropout.p = 0.0"
    return (
        f"{first}  # or move the dropout behind the last batch norm\n"
        "gb.calibrate(model, batches)  # gathers the statistics without dropout"
    )
