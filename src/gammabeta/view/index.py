"""Several runs as one: their arms, probes, frames and scalars under common numbers.

Whatever has a number here keeps it: rows are only ever added, so a page can ask for what comes
after those that it has. If a run is begun anew, a new `Index` takes the place of the old one.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal.axis import BINS
from gammabeta.signal.found import RecordedFinding
from gammabeta.signal.paths import RecordError
from gammabeta.signal.recorded import Mark, Probe
from gammabeta.view.points import Points
from gammabeta.view.reading import News, Reading

_STATUSES = ("running", "failed", "killed", "interrupted")  # the first that a run has is told


@dataclass(frozen=True)
class Arm:
    """An arm: its number, the number of its run, and its id and name in the file."""

    id: int
    run: int
    own: int
    name: str


@dataclass(frozen=True)
class Size:
    """How much an index held at some moment."""

    frames: int = 0
    scalars: int = 0
    marks: int = 0
    probes: int = 0
    findings: int = 0


class Index:
    """Everything about runs but their signals.

    Args:
        paths: their files.
        salt: makes `epoch` another than that of an index of the same files.

    Attributes:
        readings: what is known of each file.
        names: name of each run: the stem of its file, made unique.
        arms: all arms; an arm's number is its place.
        probes: all probes, with the number of the arm; a probe's number is its place.
        arm, step, seconds: of each frame, in the order of recording.
        where: (run, position in the run) of each frame.
        curves: (arm, name) of each scalar's curve.
        scalars: the points of the curves.
        marks: (arm, step, text) of each mark.
        findings: what the doctor found, with the number of the arm.
    """

    def __init__(self, paths: Sequence[Path], salt: str = "") -> None:
        self.readings = [Reading(path) for path in paths]
        self.names = _unique(paths)
        self.arms: list[Arm] = []
        self.probes: list[Probe] = []
        self.arm: list[int] = []
        self.step: list[int] = []
        self.seconds: list[float] = []
        self.where: list[tuple[int, int]] = []
        self.curves: list[tuple[int, str]] = []
        self.scalars = Points()
        self._curves: list[list[int]] = [[] for _ in paths]  # of each run's curves, the numbers
        self.marks: list[tuple[int, int, str]] = []
        self.findings: list[RecordedFinding] = []
        self._arm_of: dict[tuple[int, int], int] = {}
        self._in_file: list[tuple[int, int]] = []
        self._probe_of: list[dict[int, int]] = [{} for _ in paths]
        self._last: dict[int, tuple[tuple[int, bytes], NDArray[Any]]] = {}
        self._axis: Any = None
        # One run has one order. Several are joined in the order in which they were seen.
        self._salt = secrets.token_hex(4) if len(paths) > 1 else salt

    @property
    def epoch(self) -> str:
        """Text that two indexes share if a number means the same row in both."""
        told = "|".join([self._salt, *(each.identity for each in self.readings)])
        return hashlib.sha256(told.encode(errors="replace")).hexdigest()[:12]

    @property
    def size(self) -> Size:
        """How much there is now."""
        return Size(
            len(self.where),
            len(self.scalars),
            len(self.marks),
            len(self.probes),
            len(self.findings),
        )

    @property
    def status(self) -> str:
        """Status of all runs together."""
        found = [each.status for each in self.readings]
        return next((each for each in _STATUSES if each in found), found[0])

    @property
    def axis(self) -> dict[str, Any]:
        """The axis of the histograms."""
        return dict(self._axis or {})

    def arm_names(self) -> list[str]:
        """Return the name of each arm: its own, or with several runs that of its run."""
        if len(self.readings) == 1:
            return [each.name for each in self.arms]
        several = [sum(each.run == run for each in self.arms) > 1 for run in range(len(self.names))]
        return [
            f"{self.names[each.run]} · {each.name}" if several[each.run] else self.names[each.run]
            for each in self.arms
        ]

    def refresh(self) -> None:
        """Add what was recorded since the last call.

        Raises:
            RecordError: a file cannot be read, or the runs do not fit together.
            ReplacedError: a file holds another run than before.
        """
        frames: list[tuple[float, int, int, int, int, float]] = []
        for run, reading in enumerate(self.readings):
            before = len(reading.frames)
            news = reading.refresh()
            self._fit(reading)
            self._add_arms(run, reading)
            self._add_probes(run, reading)
            begin = _timestamp(reading.created)
            for position, (_, arm, step, seconds) in enumerate(news.frames, before):
                known = seconds if isinstance(seconds, (int, float)) and seconds < 1e12 else 0.0
                number = self._number_of(run, arm)
                frames.append((begin + known, run, position, number, step, float(known)))
            self._add_scalars(run, reading, news.points)
            self._add_marks(run, news)
        if len(self.readings) > 1:
            frames.sort(key=lambda frame: frame[:3])
        for _, run, position, arm, step, seconds in frames:
            self.arm.append(arm)
            self.step.append(step)
            self.seconds.append(seconds)
            self.where.append((run, position))

    def _fit(self, reading: Reading) -> None:
        axis = reading.meta.get("axis")
        if not isinstance(axis, dict) or axis.get("bins") != BINS or not _is_axis(axis):
            raise RecordError(f"{reading.path} is damaged: its axis cannot be read")
        if self._axis is None:
            self._axis = {key: axis[key] for key in ("limit", "linear", "bins")}
        elif any(axis[key] != value for key, value in self._axis.items()):
            raise RecordError(f"{reading.path} was recorded with another axis; show it alone")

    def _add_arms(self, run: int, reading: Reading) -> None:
        for own, name in reading.arms.items():
            if (run, own) not in self._arm_of:
                self._arm_of[run, own] = len(self.arms)
                self.arms.append(Arm(len(self.arms), run, own, name))

    def _add_probes(self, run: int, reading: Reading) -> None:
        known = self._probe_of[run]
        for each in reading.probes[len(known) :]:
            number = known[each.id] = len(self.probes)
            self._in_file.append((run, each.id))
            arm = self._number_of(run, each.arm)
            self.probes.append(dataclasses.replace(each, id=number, arm=arm))

    def _add_scalars(self, run: int, reading: Reading, before: int) -> None:
        numbers = self._curves[run]
        for own, name in reading.curves[len(numbers) :]:
            numbers.append(len(self.curves))
            self.curves.append((self._number_of(run, own), name))
        curves, steps, values = reading.points.rows(before, len(reading.points))
        self.scalars.add([numbers[curve] for curve in curves], steps, values)

    def _add_marks(self, run: int, news: News) -> None:
        mark: Mark
        for mark in news.marks:
            self.marks.append((self._number_of(run, mark.arm), mark.step, mark.text))
        for each in news.findings:
            self.findings.append(dataclasses.replace(each, arm=self._number_of(run, each.arm)))

    def _number_of(self, run: int, arm: int) -> int:
        number = self._arm_of.get((run, arm))
        if number is None:
            path = self.readings[run].path
            raise RecordError(f"{path} is damaged: it refers to an arm that it does not have")
        return number

    def probe_in_file(self, probe: int) -> tuple[int, int]:
        """Return the run of a probe, and its id in that run's file."""
        return self._in_file[probe]

    def numbers_of(self, run: int, own: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of probes of a run by their ids in the file; −1 for unknown ones."""
        known = self._probe_of[run]
        key = len(known), own.tobytes()
        last = self._last.get(run)  # frames usually have the probes of the frame before
        if last is None or last[0] != key:
            numbers = np.array([known.get(each, -1) for each in own.tolist()], dtype=np.int64)
            last = self._last[run] = key, numbers
        return last[1]


def _unique(paths: Sequence[Path]) -> list[str]:
    """Return the stem of each path, with as many folders before it as it takes to differ."""
    for depth in range(1, 8):
        names = ["/".join([*path.parts[:-1], path.stem][-depth:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{path.stem} ({i})" for i, path in enumerate(paths, 1)]


def _is_axis(axis: dict[str, Any]) -> bool:
    ends = axis.get("limit"), axis.get("linear")
    return all(isinstance(each, (int, float)) and 0 < each < math.inf for each in ends)


def _timestamp(created: str) -> float:
    try:
        return datetime.datetime.fromisoformat(created).timestamp()
    except (ValueError, OverflowError):
        return 0.0
