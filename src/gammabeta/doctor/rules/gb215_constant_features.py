"""A norm gets features that are constant, or far smaller than ε.

## What it is

A feature that has the same value for every example has variance 0: batch norm returns β for it,
whatever the value is. A feature whose variance is far below ε is nearly so: ε takes the place of
the variance, and the output is not normalized but small.

## Why it matters

The feature carries nothing in training. In evaluation it is divided by √ε, so a value that differs
a little from the constant, in a new data set, is multiplied by 316 (ε = 1e-5). Inputs in the wrong
unit, columns of a table that never change, and dead layers cause it.

## How it is detected

The variance of each input feature of a batch norm or instance norm is taken over all passes with
norms in training mode. It is constant if the variance is 0 up to rounding, and ruled by ε if the
variance is below ε / 10. A quarter of the features constant, or half of them ruled by ε, is a
warning; less is information, and so are small variances in a network that was not trained, unless
the model's input is as small: initial weights may be small. For layer, group and RMS norm, the
variance of the whole input counts.

Constants that are 0 because the layer before returns 0 for them, with weights that are not 0, are
not reported: they are dead features (GB213) or meant (γ = 0). Behind a layer that is wholly dead
everything is constant, which is information. Where GB104 has found ε too large, only constants are
reported.

## Fix

```python
x = (x - mean) / std  # normalize the inputs of the model; remove columns that never change
```

## Source

Documentation of `torch.nn.BatchNorm1d` (ε); Ioffe & Szegedy 2015, arXiv:1502.03167.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gammabeta.doctor.evidence import Call, Evidence, Pass
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.fresh import is_fresh
from gammabeta.doctor.rule import on_batches
from gammabeta.doctor.rules.gb213_dead_features import is_rectifier
from gammabeta.doctor.subject import Norm, Subject

_CONSTANT, _RULED = 0.25, 0.5
_LARGEST_EPS = 1e-3
_ROUNDING = 1e-11
_SHARE_OF_EPS = 0.1
_EXAMPLES = 8
"""Values of a feature that are needed to call it constant."""


@on_batches("GB215", "constant-features", "a norm gets features that are constant, or far below ε")
def check(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
    """Yield a finding for each norm that gets such features."""
    passes = evidence.trained if subject.batch_norms else evidence.evaluated
    trained = not is_fresh(subject)
    dead = any(f.code == "GB213" and f.severity == "error" for f in subject.findings)
    for norm in subject.norms:
        calls = [c for p in passes for c in p.of(norm.path)]
        calls = [c for c in calls if c.var is not None and c.finite and c.values > 1]
        if not calls or sum(c.values for c in calls) < _EXAMPLES:
            continue
        if len({c.mean.numel() for c in calls}) > 1:
            continue
        eps = getattr(norm.module, "eps", None)
        eps = float(eps) if isinstance(eps, (int, float)) else 0.0
        told = trained or _is_small(evidence.input(0), eps)
        if subject.is_explained(norm.path, ("GB104",)):
            told = False
        if norm.is_batch or norm.family == "instance":
            yield from _by_feature(norm, calls, eps, passes, told, dead)
        elif norm.family in ("layer", "group", "rms") and 0 < eps <= _LARGEST_EPS:
            yield from _as_a_whole(norm, calls, eps, told)


def _by_feature(
    norm: Norm, calls: list[Call], eps: float, passes: list[Pass], told: bool, dead: bool
) -> Iterator[Finding]:
    var, mean = _pooled(calls)
    constant = var <= _ROUNDING * mean.square()
    constant &= ~_dead(norm, calls, passes, constant)
    ruled = (var < _SHARE_OF_EPS * eps) & (var > _ROUNDING * mean.square())
    features, fixed, small = var.numel(), int(constant.sum()), int(ruled.sum())
    numbers = {"features": features, "eps": eps, "median variance": float(var.median())}
    if fixed:
        much = fixed >= _CONSTANT * features and not dead
        yield Finding(
            severity="warning" if much else "info",
            layer=norm.path,
            layers=_layers(norm, calls),
            cause=f"{'a quarter of its input features or more' if much else 'some of its input'}"
            f"{'' if much else ' features'} have the same value for every example, so that it "
            "returns β for them",
            numbers={"constant features": fixed, **numbers},
            fix="keep = x.std(0) > 0  # remove the features that are constant: x = x[:, keep]; or "
            "mend the layer before that is dead",
        )
    if small >= _RULED * features and eps <= _LARGEST_EPS:
        yield _small(norm, calls, told, {"features below ε / 10": small, **numbers})


def _as_a_whole(norm: Norm, calls: list[Call], eps: float, told: bool) -> Iterator[Finding]:
    var, mean = _pooled(calls)
    square = float((var + mean.square()).mean())
    whole = square if norm.family == "rms" else square - float(mean.mean()) ** 2
    if 0 < whole < _SHARE_OF_EPS * eps:
        yield _small(norm, calls, told, {"variance": whole, "eps": eps})


def _small(norm: Norm, calls: list[Call], told: bool, numbers: dict[str, float | int]) -> Finding:
    return Finding(
        severity="warning" if told else "info",
        layer=norm.path,
        layers=_layers(norm, calls),
        cause="the variance of its input is far below ε, so that its output is not normalized but "
        "small",
        numbers=numbers,
        fix="x = (x - mean) / std  # normalize the inputs of the model; or a smaller norm.eps, "
        "such as norm.eps = 1e-12",
    )


def _pooled(calls: list[Call]) -> tuple[Tensor, Tensor]:
    """Variance and mean of each feature over all calls."""
    total = sum(c.values for c in calls)
    mean = torch.stack([c.mean * (c.values / total) for c in calls]).sum(0)
    parts = [(c.var + (c.mean - mean).square()) * (c.values / total) for c in calls]
    return torch.stack(parts).sum(0), mean


def _dead(norm: Norm, calls: list[Call], passes: list[Pass], constant: Tensor) -> Tensor:
    """Whether each feature is 0 behind a ReLU, or behind a layer that only returns 0."""
    none = torch.zeros_like(constant)
    sources = {c.source for c in calls} - {""}
    outputs = [o for p in passes for o in p.outputs if o.layer in sources]
    outputs = [o for o in outputs if o.zeros.numel() == constant.numel()]
    if not outputs:
        return none
    zero = torch.stack([o.zeros == 1 for o in outputs]).all(0)
    weight = getattr(outputs[0].module, "weight", None)
    if isinstance(weight, Tensor) and weight.shape[:1] == zero.shape:
        return zero & (weight.detach().reshape(len(weight), -1).abs().sum(1) > 0).to(zero.device)
    if any(is_rectifier(o) for o in outputs) or bool(zero.all()):
        return zero
    return none


def _is_small(x: Tensor | None, eps: float) -> bool:
    """Whether the model's input itself is so small."""
    if x is None or not x.is_floating_point() or x.numel() < 2:
        return False
    return float(x.detach().double().var()) < _SHARE_OF_EPS * eps


def _layers(norm: Norm, calls: list[Call]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([norm.path, *(c.source for c in calls if c.source)]))
