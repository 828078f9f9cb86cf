"""Features that are zero for every input: dead ReLU.

## What it is

A ReLU whose input is negative for every example returns 0 for all of them. It has no gradient, so
nothing can wake it. A learning rate that is too high, or a bias or β far below zero, is the reason.

## Why it matters

Dead features cost memory and time and carry nothing. If a whole layer is dead, nothing behind it
depends on the input.

## How it is detected

The outputs of ReLU, ReLU6 and Hardswish (modules and functions) are collected by feature in
evaluation mode, and with batch norms in training mode: a feature is dead if it is exactly 0 in all
of these passes. So statistics that are out of date are not mistaken for dead features.

Features that are 0 by intention do not count: those behind a norm with γ = 0 (zero-initialized
residual branches, pruned channels), and those whose input is already 0, where the reason lies
further up. In a network that was not trained, examples look alike to deep layers, and about as many
features are always off as are always on; dead ones must exceed these by four standard deviations of
that chance (1.5 in a network that was trained, or if their bias is far below its initialization).

All features dead is an error, half of them a warning, a tenth information.

GELU and SiLU never return exactly 0: their features are dead if their input is always below −5.

## Fix

```python
nn.init.zeros_(norm.bias)  # β far below 0 keeps its ReLU off; then train with a lower rate
```

## Source

Lu et al. 2019, Dying ReLU and initialization, arXiv:1903.06733; Maas et al. 2013, Rectifier
nonlinearities improve neural network acoustic models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence import Evidence, Output, Pass
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.access import access
from gammabeta.doctor.model.fresh import is_fresh
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.subject import Subject

_INFO, _WARNING = 0.1, 0.5
_FLAT = -5.0
_FEWEST = 4
"""Features of a layer that is judged."""
_EXAMPLES = 8
"""Values of a feature that are needed to call it dead."""


@on_batches("GB213", "dead-features", "features are 0 for every input")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each layer with too many dead features."""
    passes = evidence.in_both_modes
    deviations = 4.0 if is_fresh(subject) else 1.5
    for (layer, source, _), outputs in _by_layer(passes).items():
        features = outputs[0].zeros.numel()
        seen = sum(o.zeros.numel() and _values(o) for o in outputs)
        if features < _FEWEST or seen < _EXAMPLES or not all(o.finite for o in outputs):
            continue
        if _is_smooth(outputs[0]):
            off, on = _far_below(source, passes, outputs[0])
        else:
            off = torch.stack([o.zeros == 1 for o in outputs]).all(0)
            on = torch.stack([o.zeros == 0 for o in outputs]).all(0)
            off &= ~_meant(subject, source, passes, features, off.device)
        dead, alive = int(off.sum()), int(on.sum())
        share = dead / features
        needed = 1.5 if _biased(subject, source, off) else deviations
        if share < _INFO or dead - alive <= needed * (dead + alive) ** 0.5:
            continue
        yield _finding(subject, layer, source, dead, features)


def _biased(subject: Subject, source: str, off: Tensor) -> bool:
    """Whether the bias of the layer before is far below what torch initializes it with."""
    before = subject.modules.get(source) if source else None
    weight, bias = getattr(before, "weight", None), getattr(before, "bias", None)
    if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.dim() < 2:
        return False
    if bias.shape != off.shape or not bool(off.any()):
        return False
    mean = float(bias.detach()[off.to(bias.device)].mean())
    return mean < -2 / math.sqrt(weight[0].numel())


def _finding(subject: Subject, layer: str, source: str, dead: int, features: int) -> Finding:
    whole, share = dead == features, dead / features
    severity = "error" if whole else "warning" if share >= _WARNING else "info"
    how_many = (
        "all of its features" if whole else "half of its features or more" if share >= _WARNING
        else "a part of its features"
    )  # fmt: skip
    before = subject.modules.get(source) if source else None
    name = access(source) if source else "norm"
    if before is not None and isinstance(getattr(before, "bias", None), Tensor):
        fix = f"nn.init.zeros_({name}.bias)  # then train on with a lower learning rate"
    else:
        fix = (
            f"{name}.reset_parameters()  # then train on with a lower learning rate, or with "
            "nn.LeakyReLU in place of nn.ReLU"
        )
    return Finding(
        severity=severity,
        layer=source or layer,
        layers=tuple(dict.fromkeys([source or layer, layer or source])),
        cause=f"the activation behind it returns 0 for every input in {how_many}",
        numbers={"dead features": dead, "features": features, "share": round(share, 4)},
        fix=fix,
    )


def _by_layer(passes: list[Pass]) -> dict[tuple[str, str, int], list[Output]]:
    """Outputs of ReLUs by layer, what is before it, and number of features."""
    found: dict[tuple[str, str, int], list[Output]] = {}
    for p in passes:
        for o in p.outputs:
            if is_rectifier(o) or _is_smooth(o):
                found.setdefault((o.layer, o.source, o.zeros.numel()), []).append(o)
    return found


def is_rectifier(o: Output) -> bool:
    """Whether an output is that of an activation that returns exactly 0 on one side."""
    if o.function:
        return o.function in ("relu", "hardswish")
    return isinstance(o.module, (nn.ReLU, nn.ReLU6, nn.Hardswish))


def _is_smooth(o: Output) -> bool:
    if o.function:
        return o.function in ("gelu", "silu")
    return isinstance(o.module, (nn.GELU, nn.SiLU))


def _far_below(source: str, passes: list[Pass], o: Output) -> tuple[Tensor, Tensor]:
    """Whether the input of each feature is always so low that GELU is flat there, or always > 0."""
    before = [b for p in passes for b in p.outputs if source and b.layer == source]
    before = [b for b in before if b.zeros.numel() == o.zeros.numel() and not b.function]
    if not before:
        return o.zeros > 2, o.zeros > 2
    off = torch.stack([b.high < _FLAT for b in before]).all(0)
    return off, torch.stack([b.low > 0 for b in before]).all(0)


def _values(o: Output) -> int:
    count = 1
    for size in o.shape:
        count *= size
    return count // max(1, o.zeros.numel())


def _meant(subject: Subject, source: str, passes: list[Pass], features: int, device: Any) -> Tensor:
    """Whether each feature is 0 before the ReLU, or is multiplied by γ = 0."""
    none = torch.zeros(features, dtype=torch.bool, device=device)
    if not source:
        return none
    gamma = getattr(subject.modules.get(source), "weight", None)
    zero = none.clone()
    if isinstance(gamma, Tensor) and gamma.dim() == 1 and gamma.numel() == features:
        zero |= gamma.detach() == 0
    before = [o for p in passes for o in p.outputs if o.layer == source]
    before = [o for o in before if o.zeros.numel() == features]
    # after an activation in place, `before` was summed up before it ran
    if before:
        zero |= torch.stack([o.zeros == 1 for o in before]).all(0)
    return zero
