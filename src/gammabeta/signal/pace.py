"""Decide which steps become frames, so that watching costs what it may cost.

The budget is a share of the run's time. A frame is taken when a step is wanted by the cadence and
the frames so far, with this one, stay within the budget. At the start of a run a part of the budget
of the time to come is spent ahead: frames are dense first and then thin out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gammabeta.signal.cadence import Cadence
from gammabeta.signal.sampling import LEAST, SAMPLE

FIRST = 10
FREE_SECONDS = 0.1
"""So many steps at the start are always frames, as long as they have not taken so much time."""
AHEAD_SECONDS = 10.0
AHEAD_STEPS = 100
"""The budget of this much time, or of this many steps if that is longer, is spent ahead."""


DEAR, CHEAP = 0.05, 0.01
"""Frames that take more than the first share of a step's time take smaller samples from then on;
frames below the second, larger ones."""


@dataclass
class Pace:
    """The frames of one run.

    Args:
        cadence: the steps that are wanted.
        budget: largest share of the run's time that frames may take; None for no limit.
        fixed: whether samples keep the largest size, whatever they cost.

    Attributes:
        spent: seconds that the frames have taken so far.
        others: seconds that others have taken, such as the doctor; half of the budget is kept for
            frames.
        last: seconds that a frame takes, smoothed over the last ones.
        sample: maximum number of values to look at, of one signal.
        dear: whether the last frame has taken a large share of a step.
    """

    cadence: Cadence
    budget: float | None
    fixed: bool = False
    spent: float = 0.0
    others: float = 0.0
    last: float = 0.0
    sample: int = SAMPLE // 2
    dear: bool = False
    _owed: bool = field(default=False)
    _steps: int = field(default=0)
    _frames: int = field(default=0)
    _frame: float = field(default=0.0)

    def __post_init__(self) -> None:
        if self.fixed:
            self.sample = SAMPLE

    def due(self, step: int, seconds: float, held_up: bool = False) -> bool:
        """Return whether ``step`` becomes a frame.

        Args:
            step: number of the step, from 1.
            seconds: time since the run began.
            held_up: whether no frame can be taken now; one that is wanted is taken later.
        """
        self._steps += 1
        wanted = self.cadence.due(step)
        if self.budget is None:
            return wanted
        self._owed = self._owed or wanted
        first = self._steps <= FIRST and self.spent + self.last <= FREE_SECONDS
        early = wanted and (first or self._steps == 1 or step == self.cadence.last)
        allowed = self._allowed(seconds)
        affordable = early or self.spent + self.last + min(self.others, allowed / 2) <= allowed
        if held_up or not self._owed or not affordable:
            return False
        self._owed = False
        return True

    def charge(self, seconds: float) -> None:
        """Count time that frames have taken, in seconds."""
        self.spent += seconds
        self._frame += seconds

    def taken(self, seconds: float) -> None:
        """Count a frame: what was charged since the last one was its cost.

        Args:
            seconds: time since the run began.
        """
        self._adapt(self._frame, seconds)
        # The first frame is dearer than the others: shapes and modules are seen for the first time.
        if not self._frames:
            self.last = self._frame / 3
        else:
            self.last = 0.7 * self.last + 0.3 * self._frame
        self._frames += 1
        self._frame = 0.0

    def _adapt(self, frame: float, seconds: float) -> None:
        """Choose the size of the next samples by what the frame has cost."""
        if self.fixed or not self._frames:
            return
        share = frame / max(1e-9, (seconds - self.spent) / max(1, self._steps))
        self.dear = share > DEAR
        if self.dear:
            self.sample = max(LEAST, self.sample // 2)
        elif share < CHEAP:
            self.sample = min(SAMPLE, self.sample * 2)

    def _allowed(self, seconds: float) -> float:
        """Return how many seconds of frames the budget allows after ``seconds`` of the run."""
        step = seconds / max(1, self._steps)
        ahead = max(AHEAD_SECONDS, AHEAD_STEPS * step)
        share = seconds / ahead
        # A square root up to the end of the time that is spent ahead: dense first, then thinner.
        return (self.budget or 0.0) * ahead * max(share, math.sqrt(min(1.0, share)))
