"""Compute what a record says of signals, from their samples, many at a time.

Samples of one length are sorted together; extremes, percentiles, histograms and saturated fractions
are read off the sorted values. It is NumPy's work and takes no part in training: the thread that
writes the record does it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.signal import axis, schema
from gammabeta.signal.columns import Columns, Values, numeric
from gammabeta.signal.sampling import feature_of, plain, take
from gammabeta.signal.schema import Summary

SATURATION: dict[str, tuple[float, float]] = {
    "sigmoid": (-4.0, 4.0),
    "tanh": (-2.0, 2.0),
    "relu": (0.0, math.inf),
    "relu6": (0.0, 6.0),
    "gelu": (-3.0, math.inf),
    "silu": (-5.0, math.inf),
    "hardswish": (-3.0, math.inf),
    "hardsigmoid": (-3.0, 3.0),
    "hardtanh": (-1.0, 1.0),
}
"""Saturated zone of each activation: (low, high) means that inputs <= low or >= high are saturated.
In the zone the slope is below 0.018 (sigmoid) or 0.071 (tanh), is 0 (relu, relu6, hardsigmoid,
hardtanh), is within ±0.028 (gelu, silu), or is 0 below −3 (hardswish)."""

_QUANTILES = (0.15, 0.5, 0.85)

EVIDENCE = 32
"""Values of a feature that must all be saturated, in one frame or several in a row, for it to count
as dead. Of a feature that is active half of the time, one sample in 4 billion looks like that."""


@dataclass(slots=True)
class Sample:
    """The sampled values of one signal, and what else is needed to describe it.

    Attributes:
        values: (n,) float32 or float64.
        count: number of values of the whole signal.
        zone: saturated zone of the activation that the signal enters; None for none.
        features: (n,) index of each value's feature, for the fraction of dead ones.
        units: (C,) how many values of each feature were seen since its last value that was not
            saturated; updated. A feature is dead after `EVIDENCE` of them, or all that it has.
        inside: (n,) whether each value is saturated; set here.
        gradient: (m,) sample of the gradient.
        gradient_count: number of values of the whole gradient.
        before: (n,) the values before the last update, of weights.
        normed: whether to give the L2 norm, as for parameters.
    """

    values: NDArray[Any]
    count: int
    zone: tuple[float, float] | None = None
    features: NDArray[Any] | None = None
    units: NDArray[Any] | None = None
    inside: NDArray[Any] | None = None
    gradient: NDArray[Any] | None = None
    gradient_count: int = 0
    before: NDArray[Any] | None = None
    normed: bool = False


def columns_of(probes: Sequence[int], samples: Sequence[Sample]) -> Columns:
    """Return the columns of a frame: `samples` by probe."""
    number = len(samples)
    values: Values = {}
    for each in numeric(schema.FIELDS):
        filler = 0 if each.sql == "INTEGER" else math.nan
        kind = np.int64 if each.sql == "INTEGER" else np.float64
        values[each.name] = np.full(number, filler, dtype=kind)
    histograms = np.zeros((number, axis.BINS), dtype=np.int64)
    groups: dict[tuple[int, Any], list[int]] = {}
    for i, sample in enumerate(samples):
        groups.setdefault((len(sample.values), sample.values.dtype), []).append(i)
    with np.errstate(all="ignore"):  # values may be as large as floats are
        for rows in groups.values():
            _fill(values, histograms, rows, samples)
        _gradients(values, samples)
        _parameters(values, samples)
        _dead(values, samples)
    return Columns(np.array(probes, dtype=np.int32), values, histograms)


def summarize(x: Tensor, activation: str | None = None, feature_dim: int = 1) -> Summary:
    """Measure one tensor.

    Args:
        x: the signal; any shape and floating dtype.
        activation: name of the activation that ``x`` enters, for ``saturated`` and ``dead``; None
            for none.
        feature_dim: the dim that indexes features: 1 for (N, C, ...), −1 for (..., C).

    Numerics:
        Of at most `gammabeta.signal.sampling.SAMPLE` values. Moments are computed in float64, and
        the variance from x − mean, so that the std stays accurate for a signal far from 0.
    """
    sample = Sample(take(x).cpu().numpy(), x.numel())
    local = plain(x)
    if activation in SATURATION and local.numel():
        sample.zone = SATURATION[activation]
        dim = feature_dim if local.dim() > 1 else 0
        sample.features = feature_of(tuple(local.shape), local.stride(), dim)
        size = local.shape[dim] if local.dim() else 1
        sample.units = np.zeros(size, dtype=np.int64)
    return columns_of([0], [sample]).summaries()[0]


def _fill(
    values: Values, histograms: NDArray[Any], rows: list[int], samples: Sequence[Sample]
) -> None:
    """Compute the signals ``rows``, whose samples have one length and dtype."""
    stack = np.stack([samples[row].values for row in rows])
    length = stack.shape[1]
    counts = np.array([samples[row].count for row in rows])
    values["count"][rows] = counts
    values["sampled"][rows] = length
    if not length:
        return
    finite = np.isfinite(stack).sum(axis=1)
    whole = finite == length
    values["nonfinite"][rows] = np.round((length - finite) / length * counts)
    _saturation(values, rows, samples, stack)
    places = np.array(rows)
    if whole.any():
        _moments(values, histograms, places[whole], np.sort(stack[whole], axis=1))
    for i in np.flatnonzero(~whole & (finite > 0)):
        line = stack[i][np.isfinite(stack[i])]
        _moments(values, histograms, places[i : i + 1], np.sort(line)[None])


def _moments(
    values: Values, histograms: NDArray[Any], rows: NDArray[Any], ordered: NDArray[Any]
) -> None:
    """Compute what sorted finite values tell: ``ordered`` is (len(rows), n)."""
    size = ordered.shape[1]
    mean = ordered.mean(axis=1, dtype=np.float64)
    # The difference of two float32 values near the largest would overflow.
    exact = ordered if np.abs(ordered[:, [0, -1]]).max() < 1e38 else ordered.astype(np.float64)
    centre = mean.astype(exact.dtype)
    centred = exact - centre[:, None]
    squares = np.einsum("ij,ij->i", centred, centred, dtype=np.float64) / size
    std = np.sqrt(np.maximum(0.0, squares - np.square(mean - centre)))
    values["mean"][rows], values["std"][rows] = mean, std
    left_out = 1 - np.minimum(1.0, values["sampled"][rows] / np.maximum(1, values["count"][rows]))
    values["stderr"][rows] = std / math.sqrt(size) * np.sqrt(left_out)
    values["minimum"][rows], values["maximum"][rows] = ordered[:, 0], ordered[:, -1]
    for name, share in zip(("p15", "p50", "p85"), _QUANTILES, strict=True):
        values[name][rows] = _quantile(ordered, share)
    values["zeros"][rows] = (ordered == 0).sum(axis=1)
    histograms[rows], values["under"][rows], values["over"][rows] = axis.histograms(ordered)


def _saturation(
    values: Values, rows: list[int], samples: Sequence[Sample], stack: NDArray[Any]
) -> None:
    """Compute the saturated fractions of the signals that enter an activation."""
    entering = [i for i, row in enumerate(rows) if samples[row].zone is not None]
    if not entering:
        return
    zones = np.array([samples[rows[i]].zone for i in entering], dtype=stack.dtype)
    inputs = stack[entering]
    inside = (inputs <= zones[:, :1]) | (inputs >= zones[:, 1:])
    values["saturated"][[rows[i] for i in entering]] = inside.mean(axis=1)
    for i, line in zip(entering, inside, strict=True):
        samples[rows[i]].inside = line


def _dead(values: Values, samples: Sequence[Sample]) -> None:
    """Compute the fractions of dead units, and update what was seen of them, see `Sample`."""
    rows: list[int] = []
    sizes: list[int] = []
    features, inside = [], []
    for row, sample in enumerate(samples):
        if sample.units is not None and sample.inside is not None and sample.features is not None:
            rows.append(row)
            features.append(sample.features + sum(sizes))
            inside.append(sample.inside)
            sizes.append(len(sample.units))
    if not rows:
        return
    ends = np.cumsum(sizes)
    places, saturated = np.concatenate(features), np.concatenate(inside)
    seen = np.bincount(places, minlength=ends[-1])
    active = np.bincount(places[~saturated], minlength=ends[-1]) > 0
    for row, size, end in zip(rows, sizes, ends, strict=True):
        units: Any = samples[row].units
        units += seen[end - size : end]
        units[active[end - size : end]] = 0
        needed = max(1, min(EVIDENCE, samples[row].count // max(1, size)))
        values["dead"][row] = (units >= needed).mean()


def _gradients(values: Values, samples: Sequence[Sample]) -> None:
    rows = [i for i, s in enumerate(samples) if s.gradient is not None and len(s.gradient)]
    parts = [samples[row].gradient for row in rows]
    values["gradient"][rows] = _norms(parts, [samples[row].gradient_count for row in rows])


def _parameters(values: Values, samples: Sequence[Sample]) -> None:
    """Compute the norms of parameters, and how large their last update was."""
    rows = [i for i, s in enumerate(samples) if s.normed and len(s.values)]
    counts = [samples[row].count for row in rows]
    values["norm"][rows] = _norms([samples[row].values for row in rows], counts)
    moved, changes = [], []
    for row in rows:
        before = samples[row].before
        if before is not None and values["norm"][row] > 0:
            moved.append(row)
            changes.append(samples[row].values.astype(np.float64) - before)
    sizes = _norms(changes, [samples[row].count for row in moved])
    values["update"][moved] = sizes / values["norm"][moved]


def _norms(parts: Sequence[Any], counts: Sequence[int]) -> NDArray[Any]:
    """Estimate the L2 norm of each whole from its sample.

    Squares are summed in float64, so that small ones do not underflow.
    """
    if not parts:
        return np.zeros(0)
    lengths = np.array([len(part) for part in parts])
    squares = np.square(np.concatenate(parts), dtype=np.float64)
    sums = np.add.reduceat(squares, np.cumsum(lengths) - lengths)
    norms: NDArray[Any] = np.sqrt(sums * (np.array(counts) / lengths))
    return norms


def _quantile(ordered: NDArray[Any], share: float) -> NDArray[Any]:
    """Return a quantile of each row, interpolated linearly."""
    place = share * (ordered.shape[1] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[1] - 1)
    low, high = ordered[:, below].astype(np.float64), ordered[:, above].astype(np.float64)
    found: NDArray[Any] = low + (high - low) * (place - below)
    return found
