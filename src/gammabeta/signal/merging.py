"""Merge the frames that several ranks have recorded of one step.

Moments and histograms are added by count, percentiles are read off the merged histogram, gradients
are those of all examples together. Parameters are the same on all ranks, or sharded: they are those
of rank 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import axis
from gammabeta.signal.columns import Columns

Key = tuple[str, str]
"""(name of the row, stage)."""

_PERCENTILES = (("p15", 0.15), ("p50", 0.5), ("p85", 0.85))
_KEPT = frozenset({"weight", "gamma", "beta", "mean_shift", "var_ratio"})


def merge(frames: Sequence[Columns], keys: Sequence[Mapping[int, Key]]) -> Columns:
    """Return one frame of several: the first one's probes, with the values of all.

    Args:
        frames: the signals of one step, by rank.
        keys: for each of them: probe id → its row and stage.
    """
    first = frames[0]
    values = {name: column.copy() for name, column in first.values.items()}
    histograms = first.histograms.copy()
    places = [
        {names[probe]: i for i, probe in enumerate(frame.probes.tolist()) if probe in names}
        for frame, names in zip(frames, keys, strict=True)
    ]
    for key, row in places[0].items():
        rows = [where.get(key) for where in places]
        parts = [(f, r) for f, r in zip(frames, rows, strict=True) if r is not None]
        if key[1] not in _KEPT and len(parts) > 1:
            _merge_row(values, histograms, row, parts)
    return Columns(first.probes, values, histograms)


def _merge_row(
    values: dict[str, NDArray[Any]],
    histograms: NDArray[Any],
    row: int,
    parts: Sequence[tuple[Columns, int]],
) -> None:
    def column(name: str) -> NDArray[Any]:
        return np.array([frame.values[name][i] for frame, i in parts], dtype=np.float64)

    counts = np.stack([frame.histograms[i] for frame, i in parts])
    finite = counts.sum(axis=1) + column("under") + column("over")
    total = float(finite.sum())
    for name in ("count", "nonfinite", "under", "over", "zeros"):
        values[name][row] = int(column(name).sum())
    values["sampled"][row] = column("sampled").sum()
    histograms[row] = counts.sum(axis=0)
    for name in ("saturated", "dead"):
        values[name][row] = np.average(column(name), weights=column("count") + 1e-9)
    values["gradient"][row] = math.sqrt(float(np.square(column("gradient")).sum()))
    if not total:
        return
    some = finite > 0
    weight, mean, std = finite[some] / total, column("mean")[some], column("std")[some]
    centre = float(weight @ mean)
    values["mean"][row] = centre
    values["std"][row] = math.sqrt(float(weight @ (np.square(std) + np.square(mean - centre))))
    values["stderr"][row] = math.sqrt(float(np.square(weight) @ np.square(column("stderr")[some])))
    values["minimum"][row] = column("minimum")[some].min()
    values["maximum"][row] = column("maximum")[some].max()
    low, high = values["minimum"][row], values["maximum"][row]
    for name, share in _PERCENTILES:
        under = float(values["under"][row])
        values[name][row] = _quantile(histograms[row], under, total, share, low, high)


def _quantile(
    counts: NDArray[Any], under: float, total: float, share: float, low: float, high: float
) -> float:
    """Return a quantile from a histogram, interpolated within its bin."""
    edges = axis.edges().numpy()
    edges = np.clip(edges, low, high)
    below = np.concatenate([[under], under + np.cumsum(counts)])
    return float(np.interp(share * total, below, edges))
