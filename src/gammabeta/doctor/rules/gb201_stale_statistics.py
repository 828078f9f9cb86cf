"""The running statistics are far from those of the batches, and evaluation suffers.

## What it is

Evaluation normalizes by ``running_mean`` and ``running_var``. If they are not those of the data
under the present weights, every layer after them sees a signal that it was not trained on.

## Why it matters

It is the classic way in which training looks good and evaluation bad: too few steps, weights
averaged without statistics, another domain, statistics that were never loaded.

## How it is detected

The first batches are run with batch norms in training mode and their inputs' statistics are pooled.
The model is evaluated with its own statistics and with these: the difference of the losses is the
damage, given in the finding. Without a loss, the distance of the statistics decides.

## Fix

```python
gb.calibrate(model, batches)
```

## Source

Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 2; Wu & Johnson 2021, arXiv:2105.07576.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from gammabeta.doctor.evidence import Evidence, Pass
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_WORSE = 1.1
"""A loss this much higher than after the calibration is reported."""


@on_batches("GB201", "stale-statistics", "running statistics are far from those of the batches")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the model, named after the layer that is furthest away."""
    if not evidence.statistics:
        return
    furthest, distance = "", 0.0
    for path, (mean, var) in evidence.statistics.items():
        layer = evidence.targets[path]
        scale = (layer.running_var.double() + layer.eps).sqrt()
        shift = float(((layer.running_mean.double() - mean) / scale).square().mean().sqrt())
        ratio = float(
            ((var + layer.eps) / (layer.running_var.double() + layer.eps)).log().abs().mean()
        )
        if not distance or max(shift, ratio) > distance:
            furthest, distance = path, max(shift, ratio)
    before, after = _loss(evidence.evaluated), _loss(evidence.calibrated)
    if before is None or after is None or not before > _WORSE * after:
        return
    yield Finding(
        severity="error" if before > 1.5 * after else "warning",
        layer=furthest,
        layers=tuple(evidence.statistics),
        cause="the running statistics are not those of these batches under the present weights",
        numbers={"largest distance in σ": distance},
        cost=f"evaluation loss {before:.3g} instead of {after:.3g}",
        fix="gb.calibrate(model, batches)",
    )


def _loss(passes: list[Pass]) -> float | None:
    losses = [p.loss for p in passes]
    if not losses or any(loss is None for loss in losses):
        return None
    mean = sum(loss for loss in losses if loss is not None) / len(losses)
    return mean if math.isfinite(mean) else math.inf
