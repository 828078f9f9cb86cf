"""The one axis every histogram is drawn on: asinh-scaled, the same for all layers, steps and runs.

``u = asinh(x / LINEAR)`` is linear near 0 and logarithmic far from it, and keeps the sign. Bins
are equal in u from −LIMIT to LIMIT. Because the axis never changes, a shape that has moved on
it has moved in truth; what falls off it is counted, not clipped.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

LIMIT = 100.0
"""Largest magnitude on the axis."""
LINEAR = 0.5
"""Where the axis turns from linear to logarithmic: small enough to give the outputs of a sigmoid,
[0, 1], an eighth of the axis, large enough that a unit normal still looks like one hump."""
BINS = 256


def edges() -> Tensor:
    """Return the ``BINS + 1`` bin edges in x, float64, ascending from −LIMIT to LIMIT."""
    reach = math.asinh(LIMIT / LINEAR)
    # On the CPU, whatever the default device is.
    steps = torch.linspace(0, reach, BINS // 2 + 1, dtype=torch.float64, device="cpu")
    half = LINEAR * torch.sinh(steps)
    half[-1] = LIMIT
    return torch.cat([-half.flip(0)[:-1], half])  # mirrored, so that 0 is an edge to the last bit


_EDGES = edges()


def histogram(x: Tensor) -> tuple[Tensor, int, int]:
    """Count finite values on the axis.

    Args:
        x: finite values, any shape and floating dtype.

    Returns:
        counts (BINS,) int64 on the CPU, the number below −LIMIT, the number above LIMIT. Bin i
        holds edges[i] <= x < edges[i + 1]; LIMIT itself falls in the last one.
    """
    values = x.flatten().double()
    inner = _EDGES[1:-1].to(values.device)
    under = values < -LIMIT
    over = values > LIMIT
    on_axis = values[~(under | over)]
    counts = torch.bincount(torch.bucketize(on_axis, inner, right=True), minlength=BINS)
    return counts.cpu(), int(under.sum()), int(over.sum())
