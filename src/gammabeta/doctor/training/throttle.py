"""Decide which steps a clinic observes, so that it costs what it may cost.

The clinic may take a share of the run's time, half of the watch's budget. It measures what it
takes. The first steps are always observed. Then the more of its share the clinic has taken, the
fewer steps are observed: all, one in 4, 16, 64, none. The share of the first seconds is spent
ahead, so that short runs are observed closely.
"""

from __future__ import annotations

import time
from collections.abc import Callable

FIRST = 50
"""So many steps at the start are always observed."""
AHEAD_SECONDS = 10.0
AHEAD_STEPS = 100
"""The share of this much time, or of this many steps if that is longer, is spent ahead."""
STRIDES = ((0.25, 1), (0.5, 4), (0.75, 16), (1.0, 64))
"""As long as no more than this part of the share is taken, one in so many steps is observed."""
_UNUSUAL = 0.9
"""Unusual steps are observed up to this part of the share; the rest is for the others."""


class Throttle:
    """The steps of one run.

    Args:
        share: largest share of the run's time; None for no limit.
        clock: returns the time in seconds.
        work: returns how long the thread has worked, in seconds: a clinic is not charged for the
            time in which another process has its processor.

    Attributes:
        spent: seconds that were charged so far.
    """

    def __init__(
        self,
        share: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
        work: Callable[[], float] = time.thread_time,
    ) -> None:
        self.share = share
        self.spent = 0.0
        self.clock, self.work = clock, work
        self._began = clock()
        self._steps = self._passed_by = 0

    def ends(self, observed: bool) -> bool:
        """End a step; return whether the next one is observed.

        Args:
            observed: whether the step was.
        """
        self._steps += 1
        self._passed_by = 0 if observed else self._passed_by + 1
        if self.share is None or self._steps < FIRST:
            return True
        part = self._part()
        for most, stride in STRIDES:
            if part <= most:
                return self._passed_by + 1 >= stride
        return False

    def affords_unusual(self) -> bool:
        """Return whether a step that seems unusual can be observed now."""
        return self.share is None or self._part() <= _UNUSUAL

    def _part(self) -> float:
        """Return which part of its share the clinic has taken."""
        seconds = self.clock() - self._began
        ahead = max(AHEAD_SECONDS, AHEAD_STEPS * seconds / max(1, self._steps))
        return self.spent / ((self.share or 1.0) * max(ahead, seconds))
