"""Choose which steps become frames: all early steps, then logarithmically spaced ones."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

_MOST = 2**63 - 1
"""The largest step that a record can store."""


@dataclass(frozen=True)
class Cadence:
    """Record steps 1 … early, then steps that grow by the factor ``ratio``, and ``last``.

    With the defaults, 400 steps give 131 frames and 100,000 steps give 338.

    Attributes:
        early: number of steps at the start that are all frames.
        ratio: ratio of the steps of consecutive later frames, above 1; inf for no later frames.
        last: a step that is always a frame, for example the last one of the run; None for no such
            step.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``early`` or ``last`` is not a whole number, or ``ratio`` is not a number.

    Example:
        >>> cadence = Cadence(early=3, ratio=2.0, last=20)
        >>> [step for step in range(1, 21) if cadence.due(step)]
        [1, 2, 3, 6, 12, 20]
    """

    early: int = 60
    ratio: float = 1.027
    last: int | None = None

    def __post_init__(self) -> None:
        if _whole("early", self.early) < 0:
            raise ValueError(f"early={self.early} must be at least 0")
        if not isinstance(self.ratio, Real):
            raise TypeError(f"ratio={self.ratio!r} must be a number above 1")
        if not self.ratio > 1:
            raise ValueError(f"ratio={self.ratio} must be above 1")
        if sys.float_info.max < self.ratio < math.inf:
            raise ValueError("ratio is too large; give math.inf for no later frame")
        if self.last is not None:
            _whole("last", self.last)

    def due(self, step: int) -> bool:
        """Return whether ``step`` becomes a frame. The first step is 1; steps below 1 do not.

        Raises:
            ValueError: ``step`` is too large to be recorded.
            TypeError: ``step`` is not a whole number.
        """
        if not 1 <= _whole("step", step) <= _MOST:
            if step < 1:
                return False
            raise ValueError(f"step must be at most {_MOST}, the last that a record can hold")
        if step <= self.early or step == self.last:
            return True
        if math.isinf(self.ratio):
            return False
        # A later frame is the first step at or above early·ratio^k for a whole number k.
        start = max(self.early, 1)
        # The logarithm may round to either side of a whole k, so check both neighbours.
        k = round(math.log(step / start) / math.log(self.ratio))
        return any(
            step - 1 < start * self.ratio**near <= step for near in (k - 1, k, k + 1) if near >= 1
        )


def _whole(name: str, value: Any) -> int:
    """Return ``value`` as an int, or raise TypeError if it is not a whole number."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} must be a whole number")
    return int(value)
