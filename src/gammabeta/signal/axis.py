"""The axis of all histograms: asinh-scaled, and the same for all layers, steps and runs.

``u = asinh(x / LINEAR)`` is linear near 0, logarithmic far from 0, and keeps the sign. The bins
have equal widths in u, from −LIMIT to LIMIT. Because the axis never changes, a shape that moves on
it means that the signal has moved. Values beyond the axis are counted separately.
"""

from __future__ import annotations

import math

import torch
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


_EDGES = edges()


def histogram(x: Tensor) -> tuple[Tensor, int, int]:
    """Count finite values in the bins of the axis.

    Args:
        x: finite values; any shape and floating dtype.

    Returns:
        The counts, (BINS,) int64 on the CPU; the number of values below −LIMIT; and the number
        above LIMIT. Bin i counts edges[i] <= x < edges[i + 1]; the last bin includes LIMIT.
    """
    values = x.flatten().double()
    inner = _EDGES[1:-1].to(values.device)
    under = values < -LIMIT
    over = values > LIMIT
    on_axis = values[~(under | over)]
    counts = torch.bincount(torch.bucketize(on_axis, inner, right=True), minlength=BINS)
    return counts.cpu(), int(under.sum()), int(over.sum())
