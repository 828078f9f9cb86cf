"""Features of a sigmoid or tanh that are saturated for nearly every input.

## What it is

The input of a sigmoid or tanh is so far from 0 that its output is at one of its ends for nearly
every example.

## Why it matters

The gradient through a saturated unit is nearly zero, so what is before it stops learning. Inputs
that are not normalized (pixels from 0 to 255), weights that are too large, or a large γ cause it.

## How it is detected

The mean slope of each feature follows from the first two moments of its outputs: 1 − E[y²] for
tanh. A feature whose mean slope is below 0.1 of the largest possible one, in all passes in
evaluation mode and with batch norms in training mode, is saturated. Half of a layer's features is a
warning, a fifth information.

It is silent for the model's last activation (probabilities and images are meant to reach their
ends), for gates (outputs that do not go straight into another layer, as those of
squeeze-and-excitation and of recurrent cells; information at most), for hard sigmoids and for
softmax.

## Fix

```python
model = nn.Sequential(nn.Linear(784, 256), nn.BatchNorm1d(256), nn.Tanh())  # normalize before it
```

## Source

Glorot & Bengio 2010, Understanding the difficulty of training deep feedforward neural networks;
Ioffe & Szegedy 2015, arXiv:1502.03167, section 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence import Evidence, Output
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_SLOPE = 0.1
"""A mean slope below this share of the largest one is that of a saturated feature."""
_INFO, _WARNING = 0.2, 0.5
_FEWEST = 4


@on_batches("GB214", "saturated-features", "a sigmoid or tanh is saturated for nearly every input")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each layer with too many saturated features."""
    found: dict[tuple[str, str, int], list[Output]] = {}
    fed: set[tuple[str, str, int]] = set()
    for p in evidence.in_both_modes:
        for index, o in enumerate(p.outputs[:-1]):
            if not _kind(o):
                continue
            key = (o.layer, o.source, o.mean.numel())
            found.setdefault(key, []).append(o)
            through = o.source if o.function else o.layer
            if through and any(later.source == through for later in p.outputs[index + 1 :]):
                fed.add(key)
    for (layer, source, features), outputs in found.items():
        if features < _FEWEST or not all(o.finite for o in outputs):
            continue
        slopes = torch.stack([_slope(o) for o in outputs])
        saturated = int((slopes < _SLOPE).all(0).sum())
        share = saturated / features
        hidden = (layer, source, features) in fed
        if share < (_INFO if hidden else _WARNING):
            continue
        much = hidden and share >= _WARNING
        where = source or layer
        name = access(where) if where else "layer"
        yield Finding(
            severity="warning" if much else "info",
            layer=where,
            layers=tuple(dict.fromkeys([where, layer or where])),
            cause="the sigmoid or tanh behind it is at one of its ends for nearly every input in "
            + ("half of its features or more" if share >= _WARNING else "a part of its features"),
            numbers={
                "saturated features": saturated,
                "features": features,
                "share": round(share, 4),
                "mean slope, of the largest": float(slopes.mean()),
            },
            fix=f"{name} = nn.Sequential({name}, nn.BatchNorm1d({features}))  # normalize before "
            "the activation, normalize the model's inputs, or initialize with smaller weights",
        )


def _kind(o: Output) -> str:
    if o.function in ("sigmoid", "tanh"):
        return o.function
    if o.function:
        return ""
    return {nn.Sigmoid: "sigmoid", nn.Tanh: "tanh"}.get(type(o.module), "")


def _slope(o: Output) -> Tensor:
    square = o.var + o.mean.square()
    if _kind(o) == "sigmoid":
        square = 4 * square - 4 * o.mean + 1
    return 1 - square
