"""In evaluation, the prediction for an example depends on the other examples of the batch.

## What it is

A norm without running statistics (``track_running_stats=False``) normalizes by the batch in
evaluation, too. Or an operation works across examples: a softmax or a mean over dim 0, attention
with ``batch_first`` left out, a division by the batch's maximum.

## Why it matters

Results change with the batch size, with the order of the test set, and with the other requests that
are served in the same batch. A test score is not reproducible, and an example may get one answer
alone and another one in a batch.

## How it is detected

The last examples of the first batch are evaluated alone, and their outputs are compared with those
in the batch. Rounding differs by less than a thousandth of the outputs' spread. A change of 1 % of
it is reported, of 5 % as a warning, of 30 %, or if predicted classes change, as an error.
The inputs and outputs of all modules say where the dependence begins. Models that draw random
numbers in evaluation are compared by their norms only. InstanceNorm and LayerNorm work on each
example alone and are never reported.

## Fix

```python
norm = nn.BatchNorm2d(64)  # track_running_stats=True, the default
attention = nn.MultiheadAttention(64, 4, batch_first=True)
y = y.softmax(-1)
```

## Source

Documentation of `torch.nn.BatchNorm2d` and `torch.nn.MultiheadAttention`; Wu & Johnson 2021,
arXiv:2105.07576.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch

from gammabeta.doctor.evidence import Evidence, Pass
from gammabeta.doctor.evidence.examplewise import culprit
from gammabeta.doctor.evidence.part import (
    distance,
    examples,
    found_in_model,
    is_by_example,
    outputs,
    rounding,
)
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_REPORTED, _WARNING, _ERROR = 0.01, 0.05, 0.3
"""Changes of the outputs, in units of their spread."""
_ELSEWHERE = ("GB102", "GB202")


@on_batches(
    "GB203",
    "batch-dependent-evaluation",
    "in evaluation, an example's prediction depends on the other examples of the batch",
)
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield one finding for the model, named after the layer where the dependence begins."""
    whole, size = evidence.evaluated[0], evidence.sizes[0]
    layers = [c.layer for c in whole.calls if c.by_batch and not _stored(c.module)]
    layers = list(dict.fromkeys(layers))
    elsewhere = any(f.code in _ELSEWHERE and f.severity != "info" for f in subject.findings)
    if size < 2 or elsewhere or found_in_model(subject) or whole.unregistered or whole.functional:
        return
    if any(c.by_batch and _stored(c.module) for c in whole.calls):
        return  # GB202's
    batch = evidence.batches[0]
    if not is_by_example(subject.model, batch, whole.output):
        return
    alone, few = _alone(evidence, batch, size)
    if alone is None:
        if layers and few:
            yield _finding(layers, "error", {}, "one example alone is refused")
        return
    if (whole.random or alone.random) and not layers:
        return
    change = _change(whole, alone, size, few)
    if change <= _REPORTED:
        return
    flips = _flips(whole, alone, few)
    severity = "info" if change < _WARNING else "warning"
    if change >= _ERROR or flips:
        severity = "error"
    numbers: dict[str, Any] = {
        "examples in the batch": size,
        "evaluated alone": few,
        "change of outputs in units of their spread": change,
    }
    if flips is not None:
        numbers["predicted classes that change"] = flips
    cost = f"the outputs of the same examples change by {change:.0%} of their spread"
    if layers:
        yield _finding(layers, severity, numbers, cost)
        return
    found = culprit(whole.traces, alone.traces, (size, few))
    layer = found.layer if found is not None else ""
    yield Finding(
        severity=severity,
        layer=layer,
        cause="it works across the examples of the batch, so that evaluation depends on them",
        numbers=numbers,
        fix=_advice(found.module if found is not None else None, layer),
        cost=cost,
    )


def _finding(layers: list[str], severity: str, numbers: dict[str, Any], cost: str) -> Finding:
    return Finding(
        severity=severity,
        layer=layers[0],
        layers=tuple(layers),
        cause="it keeps no running statistics, so it normalizes by the batch in evaluation, too",
        numbers=numbers,
        fix="norm = nn.BatchNorm2d(channels, track_running_stats=True)  # the default; then train\n"
        "# or one that never looks at other examples: nn.GroupNorm(groups, channels)",
        cost=cost,
    )


def _alone(evidence: Evidence, batch: Any, size: int) -> tuple[Pass | None, int]:
    few = 1 if size < 4 else 2
    try:
        return evidence.run(examples(batch, slice(size - few, size), size), "eval"), few
    except (ValueError, IndexError, RuntimeError) as error:
        if "more than 1 value" in str(error) or "more than 1 spatial" in str(error):
            return None, few
        return None, 0  # parts of the input do not index examples, such as a graph's edges


def _change(whole: Pass, alone: Pass, size: int, few: int) -> float:
    largest = 0.0
    for a, b in zip(outputs(whole.output), outputs(alone.output), strict=False):
        if a.shape[0] == size and b.shape == (few, *a.shape[1:]):
            scale = distance(a, torch.zeros_like(a))  # of all examples, not only of the few
            apart = distance(a[-few:], b) if scale == 0 else _apart(a, b)
            largest = max(largest, apart if apart > rounding(a, b) else 0.0)
    return largest


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the change of the last examples in units of the spread of all."""
    padded = a.detach().double().clone()
    padded[-b.shape[0] :] = b.double()
    share = b.shape[0] / a.shape[0]
    return distance(a, padded) / math.sqrt(share)


def _flips(whole: Pass, alone: Pass, few: int) -> int | None:
    if whole.accuracy is None:
        return None
    a, b = next(outputs(whole.output))[-few:], next(outputs(alone.output))
    return int((a.argmax(1) != b.argmax(1)).sum())


def _stored(module: Any) -> bool:
    return getattr(module, "running_mean", None) is not None


def _advice(module: Any, layer: str) -> str:
    name = access(layer)
    parts = [module, *module.modules()] if module is not None else []
    if any(getattr(each, "batch_first", True) is False for each in parts):
        return (
            f"# {name} takes (time, batch, features); make it with\nbatch_first=True\n"
            "# or give it x.transpose(0, 1)"
        )
    return (
        f"# in {name}, reduce over features or positions, not over dim 0, the batch:\n"
        "y = y.softmax(-1)  # and not y.softmax(0); likewise mean, max, norm, std and cat"
    )
