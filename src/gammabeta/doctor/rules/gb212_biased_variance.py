"""Training divides by the biased variance, evaluation by the unbiased one, and n is small.

## What it is

In training a batch norm divides by the biased variance of the n values of a channel. Into
``running_var`` it puts the unbiased one, which is n / (n − 1) times larger. With 4 values that is
33 %, with 1000 it is nothing.

## Why it matters

On the same batch, evaluation returns values that are smaller than those in training, by the root of
(n − 1) / n in each layer: 13 % with 4 values, 3 % with 16. Training is done in one scale and
evaluation in another. Ports from frameworks that keep the biased variance differ by it, too.

## How it is detected

The values per channel are counted in the passes with norms in training mode. Up to 12 are reported,
as information, and up to 16 if ``running_var`` is the batches' variance times n / (n − 1) on every
channel, within 3 %. In this case the losses of the two modes are compared on the same batches, and
the difference decides: evaluation that is 10 % worse is a warning. Norms with so few values that
their output is nearly ±1 are those of GB206.

## Fix

```python
loader = DataLoader(data, batch_size=64)  # more values per channel
norm.running_var.mul_((n - 1) / n)  # or, if the data set is a single batch: the biased variance
```

## Source

Documentation of `torch.nn.BatchNorm1d` (biased and unbiased estimators); Ioffe & Szegedy 2015,
arXiv:1502.03167, Algorithm 2.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import torch

from gammabeta.doctor.evidence import Call, Evidence
from gammabeta.doctor.evidence.damage import Damage, of_batch_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_MOST, _UNMEASURED = 16, 12
_FEW = 4
_WITHIN = 0.03
_OTHERS = ("GB102", "GB103", "GB105", "GB106", "GB107", "GB201", "GB206", "GB209")


@on_batches("GB212", "biased-variance", "the unbiased running variance differs from the batch's")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each batch norm with few values per channel."""
    if not evidence.targets:
        return
    usual = max(evidence.sizes)
    passes = [p for p in evidence.trained if evidence.sizes[p.batch] == usual] or evidence.trained
    losses = of_batch_statistics(subject)
    for path in evidence.targets:
        calls = [c for p in passes for c in p.of(path) if c.by_batch and c.var is not None]
        if not calls:
            continue
        n = int(statistics.median(c.values for c in calls))
        if not 2 <= n <= _MOST:
            continue
        measured = _measured(evidence, path, calls)
        if measured is None and n > _UNMEASURED:
            continue
        severity, cost = "info", ""
        if losses is not None and measured is not None and n > _FEW:
            damage = Damage(losses[1], losses[0])
            clear = all(not subject.is_explained(path, (code,)) for code in _OTHERS)
            if damage.severity != "info" and clear:
                severity = "warning"
                cost = f"evaluation loss {losses[1]:.3g}, and {losses[0]:.3g} by batch statistics"
        yield Finding(
            severity=severity,
            layer=path,
            cause="its running variance is unbiased, and so larger than the biased variance that "
            "it divides by in training, because a channel has few values",
            numbers={
                "values per channel": n,
                "σ of evaluation / of training": round((n / (n - 1)) ** 0.5, 4),
                "measured running variance / batch variance": measured,
            },
            cost=cost,
            fix=f"loader = DataLoader(data, batch_size={usual * max(2, -(-64 // n))})  # more "
            f"values per channel; or, for a data set of one batch, the biased variance:\n"
            f"{access(path)}.running_var.mul_({n - 1} / {n})",
        )


def _measured(evidence: Evidence, path: str, calls: list[Call]) -> float | None:
    """Running variance by the batches', if it is n / (n − 1) on every channel; else None."""
    norm = evidence.targets[path]
    n = calls[0].values
    var = torch.stack([c.var for c in calls]).mean(0)
    varies = var > 100 * float(norm.eps)
    if n < 2 or not bool(varies.any()) or norm.running_var.shape != var.shape:
        return None
    ratio = norm.running_var.double()[varies] / var[varies]
    off = (ratio * (n - 1) / n).log().abs()
    return round(float(ratio.median()), 4) if float(off.max()) <= _WITHIN else None
