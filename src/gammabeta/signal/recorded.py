"""What a record holds: probes, frames, scalars and marks, as they are read."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal.columns import Columns, DamagedError, Values, unpack_histograms
from gammabeta.signal.paths import RecordError
from gammabeta.signal.schema import Summary


@dataclass(frozen=True)
class Probe:
    """One place that is measured: a stage of a layer of an arm."""

    id: int
    arm: int
    layer: int
    name: str
    stage: str
    activation: str | None


class Moment(NamedTuple):
    """When a frame was recorded. Ids increase in the order of recording."""

    id: int
    arm: int
    step: int
    seconds: float


class Frame:
    """One recorded step of one arm, with its signals.

    Attributes:
        id: number of the frame; increases in the order of recording.
        arm: id of the arm.
        step: number of optimizer steps so far.
        seconds: time since the run began, in seconds.
        probes: (P,) ids of the probes that were measured.
        values: field → (P,) values; NaN where not measured.
    """

    def __init__(
        self, moment: Moment, probes: NDArray[Any], values: Values, histograms: bytes | NDArray[Any]
    ) -> None:
        self.id, self.arm, self.step, self.seconds = moment
        self.probes = probes
        self.values = values
        self._histograms = histograms

    @functools.cached_property
    def histograms(self) -> NDArray[Any]:
        """The histograms, (P, BINS) int64, unpacked when they are first asked for.

        Raises:
            RecordError: they are damaged.
        """
        if isinstance(self._histograms, np.ndarray):
            return self._histograms
        try:
            return unpack_histograms(self._histograms, len(self.probes))
        except DamagedError as e:
            raise RecordError(f"the record is damaged: step {self.step}: {e}") from e

    @functools.cached_property
    def signals(self) -> dict[int, Summary]:
        """The signals as objects: probe id → summary."""
        return Columns(self.probes, self.values, self.histograms).summaries()


class Mark(NamedTuple):
    """A word at a step, such as ``"lr drop"``."""

    id: int
    arm: int
    step: int
    text: str


class Scalar(NamedTuple):
    """One number of one step of one arm, for example its loss. NULL is read as NaN."""

    id: int
    arm: int
    step: int
    name: str
    value: float
