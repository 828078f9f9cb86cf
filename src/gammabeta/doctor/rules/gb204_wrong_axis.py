"""A norm takes positions for features: it works on the wrong dim of its input.

## What it is

Batch norm, instance norm and group norm take dim 1 for the features; LayerNorm takes the last. A
linear layer, an embedding or a recurrent layer puts its features last, a convolution in dim 1. If
the lengths happen to be equal (a sequence as long as its features are many, an image as high as it
has channels), a norm on the wrong dim raises no error.

## Why it matters

Each position gets its own γ, β and statistics, and the features are mixed in one scale. The model
trains, worse, and fails as soon as the length changes.

## How it is detected

During one forward pass the dim of the features is followed from the layer that made the tensor,
through transposes, elementwise functions and pooling. A norm whose dim is another one of the same
length is reported. Where two sources disagree, or a function is not known, nothing is said. Where
the lengths differ, the layer was made for positions, perhaps on purpose (a norm over nodes, over
frequencies): that is information, but a warning for groups of several positions, and an error for
instance norm without affine parameters, which does not check its ``num_features``. A norm of the
model's raw input (N, A, B) is judged by the values: neighbors along the dim that it takes for
features are correlated by more than 0.6, as in a time series, and along the other one by less than
0.3.

## Fix

```python
x = norm(x.transpose(1, 2)).transpose(1, 2)  # BatchNorm1d on (N, L, C)
x = norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)  # LayerNorm on (N, C, H, W)
```

## Source

Shapes in the documentation of `torch.nn.BatchNorm1d`, `torch.nn.LayerNorm`, `torch.nn.GroupNorm`;
discuss.pytorch.org, topic 183235 (LayerNorm on N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.evidence import Call, Evidence
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_LEADING = ("batch", "instance", "group", "batch-renorm", "ghost")
_TRAILING = ("layer", "rms")
_SMOOTH, _ROUGH = 0.6, 0.3
"""Correlations of neighbors above and below which raw inputs are surely positions, and features."""
_LONG = 8
"""Least length that is judged by correlations."""


@on_batches("GB204", "wrong-axis", "a norm takes positions for features")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each such norm."""
    families = {norm.path: norm.family for norm in subject.norms}
    for call in {c.layer: c for c in evidence.evaluated[0].calls}.values():
        family = families.get(call.layer, "")
        taken = _taken(call, family)
        if taken is None or call.axis == taken:
            continue
        if call.axis is None:
            yield from _raw(call, taken, evidence)
            continue
        wanted = call.shape[call.axis]
        made_for = getattr(call.module, "num_features", call.shape[taken])
        alike = wanted == made_for
        yield Finding(
            severity="error" if alike else _of_another_length(call, family, taken),
            layer=call.layer,
            cause="it normalizes positions in place of features: the layer before it puts its "
            f"features in another dim{', of the same length' if alike else ''}",
            numbers={
                "input": str(tuple(call.shape)),
                "dim it takes for features": taken,
                "dim of the features": call.axis,
            },
            fix=_fix(call, taken),
            cost="each position has its own γ, β and statistics; another length is an error"
            if family != "group"
            else "groups are made of positions, not of features",
        )


def _of_another_length(call: Call, family: str, taken: int) -> str:
    """Return the severity if the layer was made for the positions, perhaps on purpose.

    A group of several positions is hardly meant; one of a single position, or of all, may be.
    """
    groups = getattr(call.module, "num_groups", 1)
    return "warning" if family == "group" and 1 < groups < call.shape[taken] else "info"


def _raw(call: Call, taken: int, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding if the norm is given the model's input, and that is smooth along its dim."""
    x = evidence.input(0)
    if x is None or tuple(x.shape) != call.shape or x.dim() != 3 or call.mean is None:
        return
    other = 3 - taken
    x = x.detach().cpu().double()
    same = torch.allclose(x.movedim(call.dim, 0).flatten(1).mean(1), call.mean.cpu())
    if not same or x.shape[taken] != x.shape[other] or x.shape[other] < _LONG:
        return
    along, across = smooth_along(x, taken), smooth_along(x, other)
    if along > _SMOOTH and abs(across) < _ROUGH:
        yield Finding(
            severity="warning",
            layer=call.layer,
            cause="it seems to normalize positions in place of features: its input is smooth along "
            "the dim that it takes for features, and not along the other one",
            numbers={
                "input": str(tuple(call.shape)),
                "correlation of neighbors along its dim": along,
                "along the other one": across,
            },
            fix="x = norm(x.transpose(1, 2)).transpose(1, 2)",
        )


def smooth_along(x: Tensor, dim: int) -> float:
    """Return the correlation of neighbors along a dim of (N, A, B): near 1 for a time series.

    Every index of the other dim is standardized first, then the mean of each place is taken away,
    so that neither offsets nor scales of features count. Unordered features have about 0.

    Example:
        >>> x = torch.randn(8, 20, 20, generator=torch.Generator().manual_seed(0)).cumsum(1)
        >>> smooth_along(x, 1) > 0.6 > 0.3 > abs(smooth_along(x, 2))
        True
    """
    z = x.movedim(dim, 1)
    z = (z - z.mean((0, 1))) / z.std((0, 1)).clamp_min(1e-12)
    z = z - z.mean((0, 2), keepdim=True)
    z = z / z.square().mean((0, 2), keepdim=True).sqrt().clamp_min(1e-12)
    return float((z[:, 1:] * z[:, :-1]).mean())


def _taken(call: Call, family: str) -> int | None:
    """Return the dim that the norm takes for features; None if this says nothing."""
    if len(call.shape) < 3:
        return None
    if family in _LEADING:
        return call.dim if call.dim == 1 else None
    if family in _TRAILING:
        shape: Any = getattr(call.module, "normalized_shape", (0,))
        alone = isinstance(shape, int) or len(tuple(shape)) == 1
        return len(call.shape) - 1 if alone else None
    return None


def _fix(call: Call, taken: int) -> str:
    order = list(range(len(call.shape)))
    order.insert(taken, order.pop(call.axis or 0))
    back = [order.index(each) for each in range(len(order))]
    if len(order) == 3:
        return "x = norm(x.transpose(1, 2)).transpose(1, 2)"
    there, again = (", ".join(map(str, each)) for each in (order, back))
    return f"x = norm(x.permute({there})).permute({again})"
