"""Running statistics in half precision cannot accumulate small updates.

## What it is

``model.bfloat16()`` and ``model.half()`` convert running statistics, too. An update adds
``momentum`` × (batch − running). In bfloat16, with 8 significant bits, an update that changes the
value by less than 1 in 512 is rounded away. In float16 a variance above 65504 is infinite. The same
happens to ``num_batches_tracked`` in a narrow type: a counter in bfloat16 stops at 256, and with
``momentum=None`` the average is divided by it.

## Why it matters

The running statistics stop short of those of the data: with momentum 0.1 at 2 % of the value, with
0.01 at 20 %. Evaluation normalizes by them, and every layer adds its error.

## How it is detected

The type of the buffers of norms that are being updated, and the momentum: an update stands still
when the distance is below half a unit in the last place divided by the momentum, which the finding
gives. A warning; with batches and a loss, an error where a calibration lowers the evaluation loss
by a third. An infinity in a float16 buffer is an error. A counter whose type is too narrow is an
error with ``momentum=None`` and information otherwise, and so is half precision where GB104 already
asks for another ε. In ``eval()`` it is information, because float16 is precise enough to normalize
by.

## Fix

```python
norm.float()  # input and output stay in half precision
```

Better, keep the whole model in float32 and run it under `torch.autocast`.

## Source

Micikevicius et al. 2018, arXiv:1710.03740 (mixed precision: statistics in float32); apex's option
``keep_batchnorm_fp32``; torch's issue #70901 (counts above 65504 in float16).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.damage import of_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.initial import has_values
from gammabeta.doctor.model.share import moves, share
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject

_NARROW = 1e-4
"""Relative rounding from which a type is too coarse: float16 and bfloat16 are above it."""
_MOST_COUNTED = 1e6
"""A counter must be able to count as many batches."""


_EVALUATED = (
    "the running statistics are in half precision, which is enough to evaluate but not to train on"
)


@static(
    "GB105",
    "low-precision-statistics",
    "running statistics in half precision cannot accumulate updates",
)
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each norm that is updated in half precision."""
    for norm in subject.norms:
        its = norm.running
        if its is None or not its.there:
            continue
        low = next((b for b in (its.var, its.mean) if _is_coarse(b)), None)
        if low is not None and has_values(low) and _overflowed(norm):
            yield _found(
                subject,
                norm,
                low,
                "error",
                "the running statistics exceed the range of float16, above 65504, and are infinite",
            )
        elif low is not None and moves(subject, norm):
            yield _found(
                subject,
                norm,
                low,
                "info" if subject.is_explained(norm.path, ("GB104",)) else "warning",
                "the running statistics are in half precision, where small updates are rounded "
                "away, so they stop short of those of the data",
            )
        elif low is not None and norm.is_batch and norm.traits.exact and not norm.module.training:
            yield _found(subject, norm, low, "info", _EVALUATED)
        counter = its.tracked
        if counter is not None and moves(subject, norm) and _largest(counter) < _MOST_COUNTED:
            yield _counter(norm, counter)


def _found(subject: Subject, norm: Norm, low: Tensor, severity: str, cause: str) -> Finding:
    damage = None if cause == _EVALUATED else of_statistics(subject, [norm.path])
    if damage is not None and damage.severity == "error":
        severity = "error"
    safe = severity != "error" and norm.module.training and norm.traits.exact
    numbers: dict[str, Any] = {"dtype": _name(low.dtype)}
    part = share(norm)
    if part:
        numbers["stops at a distance of, %"] = 100 * torch.finfo(low.dtype).eps / 4 / part
    return Finding(
        severity=severity,
        layer=norm.path,
        cause=cause,
        numbers=numbers,
        cost=damage.text if damage is not None and damage.severity != "info" else "",
        fix=f"{access(norm.path)}.float()  # input and output stay in half precision",
        repair=_to_float(norm.path) if safe else None,
    )


def _counter(norm: Norm, counter: Tensor) -> Finding:
    cumulative = getattr(norm.module, "momentum", 0.1) is None
    return Finding(
        severity="error" if cumulative else "info",
        layer=norm.path,
        cause="the type of num_batches_tracked is too narrow to keep counting"
        + (", and the cumulative average is divided by it" if cumulative else ""),
        numbers={"dtype": _name(counter.dtype), "counts to": _largest(counter)},
        fix=f"{access(norm.path)}.num_batches_tracked = torch.tensor({_count(counter)})",
        repair=_to_long(norm.path),
    )


def _is_coarse(buffer: Tensor | None) -> bool:
    if buffer is None or not buffer.is_floating_point():
        return False
    return torch.finfo(buffer.dtype).eps > _NARROW


def _overflowed(norm: Norm) -> bool:
    its = norm.running
    buffers = [] if its is None else [its.mean, its.var]
    return any(
        b is not None and b.dtype == torch.float16 and bool(torch.isinf(b).any()) for b in buffers
    )


def _largest(counter: Tensor) -> float:
    """Return up to what ``counter`` counts in steps of 1."""
    if counter.is_floating_point():
        return 2 / torch.finfo(counter.dtype).eps
    if counter.dtype == torch.bool or counter.is_complex():
        return 1
    return float(torch.iinfo(counter.dtype).max)


def _count(counter: Tensor) -> int:
    value = float(counter) if has_values(counter) else 0.0
    return max(0, int(value)) if math.isfinite(value) else 0


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _to_float(path: str) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm = model.get_submodule(path)
        before = _name(norm.running_var.dtype)  # type: ignore[arg-type]
        norm.float()
        return f"{path}: {before} → float32 (in the code, too)"

    return repair


def _to_long(path: str) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm: Any = model.get_submodule(path)
        before = norm.num_batches_tracked
        norm.num_batches_tracked = torch.tensor(_count(before), device=before.device)
        return f"{path}.num_batches_tracked: {_name(before.dtype)} → int64"

    return repair
