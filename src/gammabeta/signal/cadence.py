"""Which steps become frames: every one early, when most happens, then log-spaced."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cadence:
    """Frames at steps 1 … early, then at steps that grow by ``ratio``, and at ``last``.

    Attributes:
        early: how many first steps are all frames.
        ratio: of each later frame's step to the one before it, above 1; inf for none later.
        last: a step that is a frame in any case, such as the last of the run; None for none.

    The default keeps 131 frames of 400 steps and 338 of 100,000.

    Example:
        >>> cadence = Cadence(early=3, ratio=2.0, last=20)
        >>> [step for step in range(1, 21) if cadence.due(step)]
        [1, 2, 3, 6, 12, 20]
    """

    early: int = 60
    ratio: float = 1.027
    last: int | None = None

    def __post_init__(self) -> None:
        if self.early < 0:
            raise ValueError(f"early={self.early} must be at least 0")
        if not self.ratio > 1:
            raise ValueError(f"ratio={self.ratio} must be above 1")

    def due(self, step: int) -> bool:
        """Whether step ``step`` (the first is 1) becomes a frame."""
        if step <= self.early or step == self.last:
            return True
        if math.isinf(self.ratio):
            return False
        # A later frame is the first step at or past early·ratio^k for some whole k.
        start = max(self.early, 1)
        # The logarithm may round to either side of a whole k, so both neighbours are asked.
        k = round(math.log(step / start) / math.log(self.ratio))
        return any(
            step - 1 < start * self.ratio**near <= step for near in (k - 1, k, k + 1) if near >= 1
        )
