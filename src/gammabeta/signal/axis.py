"""The axis of all histograms: asinh-scaled, and the same for all layers, steps and runs.

``u = asinh(x / LINEAR)`` is linear near 0, logarithmic far from 0, and keeps the sign. The bins
have equal widths in u, from −LIMIT to LIMIT. Because the axis never changes, a shape that moves on
it means that the signal has moved. Values beyond the axis are counted separately.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LIMIT = 100.0
"""Largest absolute value on the axis."""
LINEAR = 0.5
"""Where the axis changes from linear to logarithmic. It is small enough that [0, 1], the outputs of
a sigmoid, span an eighth of the axis, and large enough that a unit normal looks like one hump."""
BINS = 256


def edges() -> Tensor:
    """Return the ``BINS + 1`` bin edges in x, float64, ascending from −LIMIT to LIMIT."""
    reach = math.asinh(LIMIT / LINEAR)
    # Always on the CPU, regardless of the default device.
    steps = torch.linspace(0, reach, BINS // 2 + 1, dtype=torch.float64, device="cpu")
    half = LINEAR * torch.sinh(steps)
    half[-1] = LIMIT
    return torch.cat([-half.flip(0)[:-1], half])  # mirrored, so that 0 is exactly an edge


def _rounded_up(exact: NDArray[Any]) -> NDArray[Any]:
    """Return the smallest float32 not below each edge: a float32 is above it as above the edge."""
    near = exact.astype(np.float32)
    return np.where(near < exact, np.nextafter(near, np.float32(np.inf)), near).astype(np.float32)


_EDGES = edges().numpy()
_EDGES_OF = {np.dtype(np.float64): _EDGES, np.dtype(np.float32): _rounded_up(_EDGES)}


def histogram(ascending: NDArray[Any]) -> tuple[NDArray[Any], int, int]:
    """Count finite values in the bins of the axis.

    Args:
        ascending: (n,) finite values in ascending order, float32 or float64.

    Returns:
        The counts, (BINS,) int64; the number of values below −LIMIT; and the number above LIMIT.
        Bin i counts edges[i] <= x < edges[i + 1]; the last bin includes LIMIT.
    """
    counts, under, over = histograms(ascending[None])
    return counts[0], int(under[0]), int(over[0])


def histograms(ascending: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Count the values of each row of an array, see `histogram`.

    Args:
        ascending: (R, n), each row in ascending order.

    Returns:
        The counts, (R, BINS); and how many values of each row are below and above the axis, (R,).
    """
    edges = _EDGES_OF[ascending.dtype]
    places = np.stack([line.searchsorted(edges) for line in ascending])
    for row in np.flatnonzero(ascending[:, -1:] >= edges[-1]):
        places[row, -1] = ascending[row].searchsorted(edges[-1], side="right")
    return np.diff(places, axis=1), places[:, 0], ascending.shape[1] - places[:, -1]
