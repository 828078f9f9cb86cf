"""What is measured of one signal at one step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gammabeta.signal import axis

SAMPLE = 1 << 18
"""Percentiles and histogram of a larger signal are taken from every k-th value, k the smallest
stride coprime to its size that leaves at most this many; mean, std, extremes and fractions always
from all."""

SATURATION: dict[str, tuple[float, float]] = {
    "sigmoid": (-4.0, 4.0),
    "tanh": (-2.0, 2.0),
    "relu": (0.0, math.inf),
    "gelu": (-3.0, math.inf),
    "silu": (-5.0, math.inf),
}
"""Activation → (low, high): an input <= low or >= high is saturated. There the slope is below
0.018 (sigmoid), 0.071 (tanh), is 0 (relu), or is within ±0.028 (gelu, silu)."""


@dataclass(frozen=True)
class Summary:
    """One signal at one step.

    Attributes:
        count: number of values, whatever they are.
        mean, std: of the finite values; std is the population's (divisor n).
        p15, p50, p85: percentiles of the finite values (see `SAMPLE`).
        minimum, maximum: of the finite values.
        histogram: (BINS,) int64 counts on `axis`; sums with under and over to the sample's size.
        under, over: sampled values below and above the axis.
        nonfinite: number of NaN and ±inf among all values.
        zeros: sampled values exactly 0 (a ReLU's pillar); they are in the histogram too.
        saturated: fraction of values in the activation's saturated zone; None without one.
        dead: fraction of features saturated for every example of the batch; None without one.
        gradient: L2 norm of ∂loss/∂signal; None where no backward pass reached it.
    """

    count: int
    mean: float
    std: float
    p15: float
    p50: float
    p85: float
    minimum: float
    maximum: float
    histogram: Tensor
    under: int
    over: int
    nonfinite: int
    zeros: int
    saturated: float | None
    dead: float | None
    gradient: float | None = None


def summarize(x: Tensor) -> Summary:
    """Measure ``x``, any shape and floating dtype; saturation is measured by `saturation`.

    Numerics:
        Moments are taken in float64 about the mean, so that a signal far from 0 keeps its std.
    """
    values = x.detach().flatten()
    finite = torch.isfinite(values)
    nonfinite = values.numel() - int(finite.sum())
    if nonfinite:
        values = values[finite]
    if values.numel() == 0:
        nan = math.nan
        empty = torch.zeros(axis.BINS, dtype=torch.int64, device="cpu")
        return Summary(
            x.numel(), nan, nan, nan, nan, nan, nan, nan, empty, 0, 0, nonfinite, 0, None, None
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
        saturated=None,
        dead=None,
    )


def _stride(count: int) -> int:
    """Coprime to ``count``, and so to every dim: a stride of 4 would skip 3 features of 4."""
    stride = max(1, math.ceil(count / SAMPLE))
    while math.gcd(stride, count) > 1:
        stride += 1
    return stride


def saturation(
    x: Tensor, activation: str | None, feature_dim: int = 1
) -> tuple[float | None, float | None]:
    """Return the saturated fraction of an activation's input and the dead fraction of features.

    Args:
        x: (N, ...) the activation's input.
        activation: its name; without a zone in `SATURATION` both fractions are None.
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
