"""Measure one signal at one step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gammabeta.signal import axis
from gammabeta.signal.schema import FIELDS, Summary

SAMPLE = 1 << 18
"""Maximum number of values from which percentiles and histogram are computed. From a larger signal,
every k-th value is taken, where k is the smallest stride that is coprime to the size and leaves at
most this many. Mean, std, extremes and fractions always use all values."""

SATURATION: dict[str, tuple[float, float]] = {
    "sigmoid": (-4.0, 4.0),
    "tanh": (-2.0, 2.0),
    "relu": (0.0, math.inf),
    "gelu": (-3.0, math.inf),
    "silu": (-5.0, math.inf),
}
"""Saturated zone of each activation: (low, high) means that inputs <= low or >= high are saturated.
In the zone the slope is below 0.018 (sigmoid) or 0.071 (tanh), is 0 (relu), or is within ±0.028
(gelu, silu)."""


def summarize(x: Tensor) -> Summary:
    """Measure ``x``; use `saturation` for the fields ``saturated`` and ``dead``.

    Args:
        x: the signal; any shape and floating dtype.

    Numerics:
        Computes in float64, and the variance from x − mean, so that the std stays accurate for a
        signal far from 0.
    """
    values = x.detach().flatten()
    finite = torch.isfinite(values)
    nonfinite = values.numel() - int(finite.sum())
    if nonfinite:
        values = values[finite]
    if values.numel() == 0:
        nothing: dict[str, Any] = {each.name: each.absent for each in FIELDS}
        empty = torch.zeros(axis.BINS, dtype=torch.int64, device="cpu")
        return Summary(
            **{**nothing, "count": x.numel(), "nonfinite": nonfinite, "histogram": empty}
        )
    precise = values.double()
    mean = precise.mean()
    std = (precise - mean).square().mean().sqrt()
    low, high = precise.aminmax()
    sample = precise[:: _stride(values.numel())]
    p15, p50, p85 = torch.quantile(
        sample, torch.tensor([0.15, 0.5, 0.85], dtype=torch.float64, device=sample.device)
    ).tolist()
    histogram, under, over = axis.histogram(sample)
    return Summary(
        count=x.numel(),
        mean=float(mean),
        std=float(std),
        p15=p15,
        p50=p50,
        p85=p85,
        minimum=float(low),
        maximum=float(high),
        histogram=histogram,
        under=under,
        over=over,
        nonfinite=nonfinite,
        zeros=int((sample == 0).sum()),
    )


def _stride(count: int) -> int:
    """Return a stride coprime to ``count``, and so to the size of every dim.

    A stride that divides the number of features would always sample the same features.
    """
    stride = max(1, math.ceil(count / SAMPLE))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def saturation(
    x: Tensor, activation: str | None, feature_dim: int = 1
) -> tuple[float | None, float | None]:
    """Return the fraction of saturated values and the fraction of dead features.

    A feature is dead if it is saturated for every example of the batch. Both fractions are None if
    the activation is not in `SATURATION`.

    Args:
        x: (N, ...) input of the activation.
        activation: name of the activation.
        feature_dim: the dim that indexes features: 1 for (N, C, ...), −1 for (..., C).
    """
    if activation not in SATURATION or x.numel() == 0:
        return None, None
    low, high = SATURATION[activation]
    values = x.detach()
    inside = (values <= low) | (values >= high)
    feature_dim %= max(x.dim(), 1)
    others = [d for d in range(x.dim()) if d != feature_dim]
    dead = inside.all(dim=others) if others else inside
    return float(inside.double().mean()), float(dead.double().mean())
