"""Histograms as shapes: what the page draws of them, in one byte a bin."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FULL = 255
"""Height of the largest bin."""


def heights(counts: NDArray[Any]) -> NDArray[np.uint8]:
    """Return ``counts`` scaled so that the largest of each histogram is `FULL`.

    Args:
        counts: (..., bins), at least 0.

    Returns:
        (..., bins). A bin that is not empty is at least 1; a histogram of zeros stays so.
    """
    most = counts.max(-1, keepdims=True, initial=0)
    scale = (FULL / np.maximum(most, 1)).astype(np.float32)
    scaled = np.rint(counts.astype(np.float32) * scale)
    found: NDArray[np.uint8] = np.maximum(scaled, counts > 0).astype(np.uint8)
    return found


def levels(counts: NDArray[Any], group: int, most: int) -> NDArray[np.uint8]:
    """Return ``counts`` in groups of neighbouring bins, on a scale of square roots.

    The noise of a count is its square root, so the noise of a level is the same everywhere.

    Args:
        counts: (..., bins), at least 0.
        group: number of bins in a group; divides the number of bins.
        most: level of the largest group.

    Returns:
        (..., bins / group). A group that is not empty is at least 1.
    """
    groups = counts.shape[-1] // group
    sums = counts.reshape(*counts.shape[:-1], groups, group).sum(-1, dtype=np.float32)
    largest = np.maximum(sums.max(-1, keepdims=True, initial=0), 1)
    scaled = np.rint(most * np.sqrt(sums / largest))
    found: NDArray[np.uint8] = np.maximum(scaled, sums > 0).astype(np.uint8)
    return found
