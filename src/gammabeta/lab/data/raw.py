"""What the files of a data set hold: four arrays of bytes, or a `DataError`."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes: TypeAlias = npt.NDArray[np.uint8]

Parts: TypeAlias = tuple[Bytes, Bytes, Bytes, Bytes]
"""Training images and labels, test images and labels."""


class DataError(ValueError):
    """Data is missing or damaged; the message names the file and how to fix it."""
