"""Millions of points of curves in little memory, and few enough of them for a picture."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Steps and values."""


class Points:
    """Points of several curves, in the order in which they were recorded; some 24 bytes each."""

    def __init__(self) -> None:
        self._curve = array("q")
        self._step = array("q")
        self._value = array("d")

    def __len__(self) -> int:
        return len(self._value)  # the last to be appended

    def add(self, curves: Sequence[int], steps: Sequence[int], values: Sequence[float]) -> None:
        """Append points: of each the number of its curve, its step and its value."""
        self._curve.extend(curves)
        self._step.extend(steps)
        self._value.extend(values)

    def rows(self, first: int, last: int) -> tuple[array[int], array[int], array[float]]:
        """Return curves, steps and values of the points from ``first`` to before ``last``."""
        part = slice(first, last)
        return self._curve[part], self._step[part], self._value[part]

    def curves(self, first: int, last: int) -> dict[int, Curve]:
        """Return the points from ``first`` to before ``last`` by curve, in order of the curves."""
        rows = self.rows(first, last)  # copies, because more may be appended meanwhile
        curve = np.array(rows[0], dtype=np.int64)
        order = np.argsort(curve, kind="stable")
        numbers, starts = np.unique(curve[order], return_index=True)
        steps = np.array(rows[1], dtype=np.int64)[order]
        values = np.array(rows[2], dtype=np.float64)[order]
        split = zip(np.split(steps, starts[1:]), np.split(values, starts[1:]), strict=True)
        return dict(zip(numbers.tolist(), split, strict=False))


def thinned(curve: Curve, most: int) -> Curve:
    """Return at most about ``most`` points that look like all of ``curve``.

    Of each stretch of neighbouring points the first, the smallest, the largest, the first that is
    not finite, and the last are kept.
    """
    steps, values = curve
    if len(steps) <= most:
        return curve
    size = -(-len(steps) * 5 // most)
    padding = -len(steps) % size
    places = np.pad(np.arange(len(steps)), (0, padding), mode="edge").reshape(-1, size)
    stretch = values[places]
    finite = np.isfinite(stretch)
    kept = [
        np.zeros(len(places), dtype=np.int64),
        np.where(finite, stretch, np.inf).argmin(1),
        np.where(finite, stretch, -np.inf).argmax(1),
        (~finite).argmax(1),
        np.full(len(places), size - 1),
    ]
    chosen = np.unique(np.concatenate([places[np.arange(len(places)), each] for each in kept]))
    return steps[chosen], values[chosen]
