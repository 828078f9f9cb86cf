"""How far a run has come, how fast, and how it ended."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        step, steps: optimizer steps taken, and in all.
        loss: mean over the steps since the last report, and over all ranks.
        learning_rate: of this step.
        images_per_second: of all ranks, since the last report; without evaluating and saving.
        seconds_left: until the last step, at this speed.
        accuracy: on the test split, if it was measured at this step.
        best: the best accuracy so far.
        saved: the checkpoint written at this step.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    images_per_second: float
    seconds_left: float
    accuracy: float | None = None
    best: float | None = None
    saved: Path | None = None


@dataclass
class Outcome:
    """How a run ended.

    Attributes:
        step: the last step taken.
        accuracies: step → test accuracy, as measured by this process.
        best: the best of the whole run; NaN if none was measured.
        best_step: where that was.
        diverged: the step whose loss was not finite.
        stopped: whether it was asked to stop before the last step.
        checkpoint: the last one written.
    """

    step: int = 0
    accuracies: dict[int, float] = field(default_factory=dict)
    best: float = math.nan
    best_step: int = 0
    diverged: int | None = None
    stopped: bool = False
    checkpoint: Path | None = None


class Since:
    """What has happened since the last report, with the clock stopped while nothing is trained."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images = 0
        self._seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def pause(self) -> None:
        """Stop the clock, if it runs."""
        if self._began is not None:
            self._seconds += time.monotonic() - self._began
            self._began = None

    def again(self) -> None:
        """Start the clock, if it stands."""
        if self._began is None:
            self.begin()

    def loss(self) -> float:
        """Return the mean loss; NaN of none."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else math.nan

    def speed(self) -> tuple[float, float]:
        """Return images a second and seconds a step; the clock stops."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        return self.images / seconds, seconds / max(len(self.losses), 1)

    def reset(self) -> None:
        """Forget all."""
        self.losses, self.images, self._seconds = [], 0, 0.0
