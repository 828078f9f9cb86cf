"""Progress, speed and outcome of a run."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        step, steps: optimizer steps taken, and in total.
        loss: mean over the steps since the last report and over all ranks.
        learning_rate: learning rate of this step.
        images_per_second: speed of all ranks since the last report, without evaluation and
            checkpoints.
        seconds_left: estimated time until the last step.
        accuracy: accuracy on the test split, if it was measured at this step.
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
    """Outcome of a run.

    Attributes:
        step: the last step taken.
        accuracies: step → test accuracy, as measured by this process.
        best: best accuracy of the whole run; NaN if none was measured.
        best_step: the step with the best accuracy.
        diverged: the step whose loss was not finite.
        stopped: whether the run was stopped before the last step.
        checkpoint: the last checkpoint written.
    """

    step: int = 0
    accuracies: dict[int, float] = field(default_factory=dict)
    best: float = math.nan
    best_step: int = 0
    diverged: int | None = None
    stopped: bool = False
    checkpoint: Path | None = None


class Since:
    """Losses and time since the last report; time counts only while training."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.images = 0
        self._seconds = 0.0
        self._began: float | None = None

    def begin(self) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def pause(self) -> None:
        """Stop the clock if it is running."""
        if self._began is not None:
            self._seconds += time.monotonic() - self._began
            self._began = None

    def again(self) -> None:
        """Start the clock if it is stopped."""
        if self._began is None:
            self.begin()

    def loss(self) -> float:
        """Return the mean loss; NaN without losses."""
        return math.fsum(self.losses) / len(self.losses) if self.losses else math.nan

    def speed(self) -> tuple[float, float]:
        """Stop the clock; return images per second and seconds per step."""
        self.pause()
        seconds = max(self._seconds, 1e-9)
        return self.images / seconds, seconds / max(len(self.losses), 1)

    def reset(self) -> None:
        """Start over."""
        self.losses, self.images, self._seconds = [], 0, 0.0
