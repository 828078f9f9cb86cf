"""A norm's buffers hold NaN, infinity, or a negative variance.

## What it is

One value of ``running_mean`` or ``running_var`` is not a number or infinite, or a variance is below
zero.

## Why it matters

Evaluation normalizes by them: the channel becomes NaN, and usually everything after it. One bad
batch is enough, because a running average never forgets a NaN: training goes on as if nothing had
happened, since it normalizes by the batch.

## How it is detected

All buffers of all norms are read: every value must be finite, and values of buffers with ``var`` in
their names must not be negative; all of that is an error. A ``running_var`` of `torch.nn` that is 0
in every channel is a warning: evaluation then multiplies by 1/√ε. An infinity in float16 that is
the range of the type, not the data, is reported by GB105.

## Fix

```python
gb.calibrate(model, batches)  # measure the statistics anew
```

``--fix`` does so on the batches that were given. gammabeta's batch norms skip updates that would
make the statistics non-finite: ``gb.convert(model)``.

## Source

ISBNet's issue #6 (training goes on, ``running_mean`` is NaN in evaluation); Ioffe & Szegedy 2015,
arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gammabeta.doctor.evidence.damage import of_statistics
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.initial import has_values, is_all
from gammabeta.doctor.repair import measured
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject

_ZERO = "the running variance is 0 in every channel, so evaluation multiplies by 1/√ε"


@static("GB107", "bad-buffers", "buffers hold NaN, infinity or a negative variance")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each norm with such a buffer."""
    for norm in subject.norms:
        found = _worst(norm)
        if found is None or subject.is_explained(norm.path, ("GB105",)):
            continue
        cause, name, bad, total = found
        damage = of_statistics(subject, [norm.path])
        yield Finding(
            severity="warning" if cause == _ZERO else "error",
            layer=norm.path,
            cause=cause,
            numbers={"buffer": name, "values": bad, "of": total},
            cost=damage.text if damage is not None and damage.severity != "info" else "",
            fix="gb.calibrate(model, batches)  # measure the statistics anew",
            repair=measured(subject.evidence, [norm.path]),
        )


def _worst(norm: Norm) -> tuple[str, str, int, int] | None:
    """Return cause, buffer's name, number of bad values and of all values."""
    buffers = {
        name: b
        for name, b in norm.module.named_buffers()
        if has_values(b) and (b.is_floating_point() or b.is_complex())
    }
    for cause, test in (
        ("a buffer holds NaN, so evaluation returns NaN", torch.isnan),
        ("a buffer holds an infinite value, so evaluation returns 0 or NaN", torch.isinf),
        ("a variance is negative, so evaluation returns NaN", _negative),
    ):
        for name, buffer in buffers.items():
            if test is _negative and not ("var" in name and buffer.is_floating_point()):
                continue
            bad = test(buffer)
            if bool(bad.any()):
                return cause, name, int(bad.sum()), buffer.numel()
    var = norm.running.var if norm.running is not None and norm.running.of == "batch" else None
    if var is not None and is_all(var, 0) and var.numel() > 1:
        return _ZERO, "running_var", var.numel(), var.numel()
    return None


def _negative(buffer: Tensor) -> Tensor:
    return buffer < 0
