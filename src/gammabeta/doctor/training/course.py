"""How a training goes: its losses and frames so far, for the rules that judge them together.

One `Course` belongs to a run. The clinic gives it each loss and each frame before the rules get
them, so that rules about learning rates, spikes, NaN and gradients agree on one cause.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

from gammabeta.signal.attending import Recorded

_EARLY = 64
_RECENT = 64
_LOOKS = 64
_SIZES = 512
_FROM_ZERO = 1e-5
"""An update this close to the weight itself began at 0."""
IMPROVED = 0.7
"""A loss below this share of the first one has been learned."""


@dataclass(frozen=True)
class Weight:
    """A weight after a step: norm, that of its gradient, update ÷ weight, and RMS of its values."""

    norm: float
    gradient: float
    update: float
    rms: float = math.nan


@dataclass(frozen=True)
class Look:
    """What a frame says of gradients.

    Attributes:
        step: its number.
        signals: name of a layer → L2 norm of the gradient with respect to its output z, in the
            order of the network; layers without a gradient are left out.
        weights: name of a row → its weight; empty if the frame did not measure weights.
    """

    step: int
    signals: Mapping[str, float]
    weights: Mapping[str, Weight]

    @property
    def update(self) -> float:
        """Median of update ÷ weight over the weights that have a gradient; NaN if unknown.

        Frozen weights would count as updates of 0, and those that were 0 as updates of 1: beside
        them, nothing else has a gradient in the first step.
        """
        known = [
            w
            for w in self.weights.values()
            if math.isfinite(w.update) and abs(w.update - 1) > _FROM_ZERO
        ]
        ratios = [w.update for w in known if w.gradient > 0] or [w.update for w in known]
        return median(ratios) if ratios else math.nan


@dataclass
class Course:
    """The losses and frames of a run.

    Attributes:
        early: the first losses, as (step, loss).
        recent: the last losses.
        looks: the first frame and the last ones.
        best: the lowest median of five losses in a row so far.
        blamed: codes of the rules that have named the cause of what goes wrong.
        count: number of losses.
        lost: step at which a raised learning rate undid what had been learned; None if none did.
        sizes: step that was not observed → number of its examples; of the last ones.
    """

    early: list[tuple[int, float]] = field(default_factory=list)
    recent: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    looks: list[Look] = field(default_factory=list)
    best: float = math.inf
    blamed: set[str] = field(default_factory=set)
    count: int = 0
    lost: int | None = None
    sizes: dict[int, int] = field(default_factory=dict)

    def add_loss(self, step: int, loss: float) -> None:
        """Note the loss of a step."""
        self.count += 1
        if len(self.early) < _EARLY:
            self.early.append((step, loss))
        self.recent.append((step, loss))
        if len(self.recent) >= 5:
            middle = median(self.last(5))
            self.best = min(self.best, middle)

    def add_size(self, step: int, examples: int) -> None:
        """Note the number of examples of a step that was not observed."""
        self.sizes[step] = examples
        if len(self.sizes) > _SIZES:
            self.sizes.pop(next(iter(self.sizes)), None)

    def add_frame(self, frame: Recorded) -> None:
        """Note a frame."""
        signals = {
            name: values["gradient"]
            for (name, stage), values in frame.rows.items()
            if stage == "z" and not math.isnan(values["gradient"])
        }
        weights = {
            name: Weight(
                values["norm"],
                values["gradient"],
                values["update"],
                math.hypot(values["std"], values["mean"]),
            )
            for (name, stage), values in frame.rows.items()
            if stage == "weight"
        }
        self.looks.append(Look(frame.step, signals, weights))
        if len(self.looks) > _LOOKS:
            del self.looks[8]

    def last(self, number: int) -> list[float]:
        """Return the last losses, infinite ones for those that are not finite."""
        some = islice(self.recent, max(0, len(self.recent) - number), None)
        return [loss if math.isfinite(loss) else math.inf for _, loss in some]

    @property
    def initial(self) -> float:
        """The first loss; NaN if there is none."""
        return self.early[0][1] if self.early else math.nan

    @property
    def has_learned(self) -> bool:
        """Whether the loss has been clearly below the first one."""
        return self.best < self.initial - (1 - IMPROVED) * abs(self.initial)

    @property
    def largest_update(self) -> float:
        """The largest median of update ÷ weight of the frames so far; 0 if unknown."""
        return max((u for look in self.looks if not math.isnan(u := look.update)), default=0.0)

    def rose(self, loss: float, factor: float) -> bool:
        """Whether ``loss`` is above ``factor`` times the first one (for a negative one, as far)."""
        return not loss <= self.initial + (factor - 1) * max(abs(self.initial), 1e-8)
