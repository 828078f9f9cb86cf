"""Read the record of one run, only what is new, while it may still be written.

The file is opened for each use and closed again: a reader that stayed would keep the writer from
turning the record into one plain file. What has been read is kept, and a file that has not changed
is not opened.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import axis, schema
from gammabeta.signal.columns import numeric
from gammabeta.signal.found import RecordedFinding
from gammabeta.signal.paths import RecordError
from gammabeta.signal.recorded import Frame, Mark, Moment, Probe, Scalar
from gammabeta.signal.run import Run
from gammabeta.view.points import Points

Row = TypeVar("Row", Moment, Scalar, Mark, RecordedFinding)

_SETTLED_NS = 100_000_000  # file systems keep times in ticks; a younger file may change unseen
_SCALARS = 50_000  # that are read at a time
_ZERO = axis.BINS // 2  # the bin that begins at 0


class ReplacedError(RecordError):
    """Another run has taken the place of the one that was being read."""


@dataclass(frozen=True)
class News:
    """What was recorded since the last look: rows of the file with its own ids.

    Attributes:
        frames, marks, findings: the rows; a finding's mark is left out.
        points: number of points that there were before.
    """

    frames: list[Moment] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    points: int = 0
    findings: list[RecordedFinding] = field(default_factory=list)


@dataclass(frozen=True)
class Decoded:
    """The signals of one frame.

    Attributes:
        probes: (P,) ids in the file, ascending.
        names: the fields that are numbers.
        values: (names, P) float32, NaN where not measured.
    """

    probes: NDArray[Any]
    names: tuple[str, ...]
    values: NDArray[np.float32]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        row: NDArray[np.float32] = self.values[self.names.index(name)]
        return row

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return int(self.probes.nbytes + self.values.nbytes)


class Reading:
    """What is known of one run's file so far.

    Args:
        path: the file.

    Attributes:
        path: the same.
        title, created, status, settings, meta: see `Run`.
        fields: names of the fields that the file has.
        arms: the file's arms, id → name.
        probes: the file's probes, in the order of their ids.
        frames: ids of the frames, ascending.
        curves: (arm, name) of the curve of each scalar.
        points: the scalars.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.title = path.stem
        self.status = "running"
        self.settings: dict[str, Any] = {}
        self.meta: dict[str, Any] = {}
        self.fields: tuple[str, ...] = ()
        self.arms: dict[int, str] = {}
        self.probes: list[Probe] = []
        self.frames: list[int] = []
        self.curves: list[tuple[int, str]] = []
        self.points = Points()
        self._curve_of: dict[tuple[int, str], int] = {}
        self._identity: Any = None
        self._last: tuple[Moment | None, Mark | None] = (None, None)
        self._last_scalar: Scalar | None = None
        self._last_finding: RecordedFinding | None = None
        self._seen: Any = None
        self._told: set[tuple[int, int, str]] = set()  # the marks of findings

    @property
    def created(self) -> str:
        """When the run began, as it says; ISO 8601."""
        created = self.meta.get("created")
        return created if isinstance(created, str) else ""

    @property
    def identity(self) -> str:
        """What differs after every start of the run."""
        return repr(self._identity)

    def refresh(self) -> News:
        """Read what is new; `arms` and `probes` then have all that it refers to.

        Raises:
            RecordError: the file cannot be read.
            ReplacedError: the file holds another run than at the last call.
        """
        stamp = self._stamp()
        if stamp is not None and stamp == self._seen and self.status != "running":
            return News(points=len(self.points))
        with Run(self.path) as run:
            identity = _identity(run.meta)
            if self._identity is not None and identity != self._identity:
                raise self._replaced()
            # The status first: if the run has ended, everything that follows is complete.
            before_status, self.status = self.status, run.status()
            if stamp is not None and stamp == self._seen and self.status == before_status:
                # Only whether its process still lives was to be found out.
                return News(points=len(self.points))
            before = len(self.points)
            self._read_scalars(run)
            frame, mark = self._last
            frames, marks = self._after(frame, run.index), self._after(mark, run.marks)
            findings = self._after(self._last_finding, run.findings)
            if run.meta.get("ranks") == "all" and self.status == "running":
                frames = frames[:-1]  # of the newest, other ranks may not have written their part
            if self._identity is None or frames or marks or findings or len(self.points) > before:
                self.arms = run.arms()
                self.probes += run.probes(after=self.probes[-1].id if self.probes else -1)
            self.settings, self.meta = run.settings, run.meta
            self.title = run.title or self.path.stem
            self.fields = tuple(each.name for each in run.fields)
        self._identity = identity
        self.frames.extend(moment.id for moment in frames)
        self._last = frames[-1] if frames else frame, marks[-1] if marks else mark
        self._last_finding = findings[-1] if findings else self._last_finding
        self._seen = stamp
        # A finding and its mark are one transaction, and marks were read first.
        self._told.update((each.arm, each.step, each.mark) for each in findings)
        others = [each for each in marks if tuple(each[1:]) not in self._told]
        return News(frames, others, before, findings)

    def _read_scalars(self, run: Run) -> None:
        """Add what is new to the points, some at a time."""
        while some := self._after(self._last_scalar, functools.partial(run.scalars, most=_SCALARS)):
            keys = [(each.arm, each.name) for each in some]
            for key in dict.fromkeys(keys):
                if key not in self._curve_of:
                    self._curve_of[key] = len(self.curves)
                    self.curves.append(key)
            self.points.add(
                [self._curve_of[key] for key in keys],
                [each.step for each in some],
                [each.value for each in some],
            )
            self._last_scalar = some[-1]

    def _after(self, last: Row | None, rows: Callable[..., list[Row]]) -> list[Row]:
        """Return the rows after ``last``, which has to be there still."""
        if last is None:
            return rows()
        found = rows(after=last.id - 1)
        if not found or repr(found[0]) != repr(last):  # by repr, because NaN is not NaN
            raise self._replaced()
        return found[1:]

    def _replaced(self) -> ReplacedError:
        return ReplacedError(f"{self.path} was begun anew or continued; reload the page")

    def _stamp(self) -> Any:
        """Return what changes when the file does; None if it may have changed just now."""
        stamps: list[Any] = []
        for name in (str(self.path), f"{self.path}-wal"):
            try:
                found = os.stat(name)
            except OSError:
                stamps.append(None)
                continue
            if time.time_ns() - found.st_mtime_ns < _SETTLED_NS:
                return None
            stamps.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))
        return stamps

    def decoded(self, positions: Sequence[int]) -> Iterator[tuple[int, Decoded]]:
        """Yield the numbers of frames, each with its position in `frames`.

        Args:
            positions: ascending.

        Raises:
            RecordError: the file cannot be read, or a frame is damaged.
        """
        for position, frame in self._frames(positions):
            order = _ascending(frame.probes)
            names = number_fields()
            values = np.full((len(names), len(frame.probes)), np.nan, dtype=np.float32)
            with np.errstate(over="ignore"):  # beyond float32 is infinite
                for i, name in enumerate(names):
                    if name in frame.values:
                        values[i] = frame.values[name]
            yield position, Decoded(frame.probes[order], names, values[:, order])

    def histograms(self, positions: Sequence[int]) -> Iterator[tuple[int, NDArray[Any], Any]]:
        """Yield ``(position, probes, counts)``; (P, BINS) counts without the exact zeros."""
        for position, frame in self._frames(positions):
            order = _ascending(frame.probes)
            counts = np.array(frame.histograms, dtype=np.int64)
            zeros = np.nan_to_num(np.asarray(frame.values["zeros"], dtype=np.float64))
            counts[:, _ZERO] -= np.clip(zeros, 0, counts[:, _ZERO]).astype(np.int64)
            yield position, frame.probes[order], counts[order]

    def channels(self, wanted: Iterable[tuple[int, int]]) -> Iterator[NDArray[Any] | None]:
        """Yield the values by channel of each ``(probe, step)``, see `Run.channels`."""
        with Run(self.path) as run:
            for probe, step in wanted:
                yield run.channels(probe, step)

    def _frames(self, positions: Sequence[int]) -> Iterator[tuple[int, Frame]]:
        if not positions:
            return
        with Run(self.path) as run:
            for first, last in _stretches(positions):
                wanted = self.frames[first : last + 1]
                found = run.frames(after=wanted[0] - 1, most=len(wanted))
                position = first - 1
                for position, frame in enumerate(found, first):
                    if frame.id != wanted[position - first]:
                        break
                    yield position, frame
                else:
                    if position == last:
                        continue
                raise ReplacedError(f"{self.path} has changed since it was read; reload the page")


def _identity(meta: dict[str, Any]) -> list[Any]:
    """Return what differs after every start of a run."""
    found = [meta.get(each) for each in ("created", "started", "pid", "host")]
    starts = meta.get("starts")
    count = len(starts) if isinstance(starts, list) else 0
    return [count, *(each if isinstance(each, (str, int)) else None for each in found)]


def number_fields() -> tuple[str, ...]:
    """Return the names of the fields that are numbers."""
    return tuple(each.name for each in numeric(schema.FIELDS))


def _ascending(probes: NDArray[Any]) -> Any:
    """Return what puts ``probes`` in order and leaves out what is there twice."""
    if np.all(probes[1:] > probes[:-1]):
        return slice(None)
    return np.unique(probes, return_index=True)[1]


def _stretches(positions: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of each stretch of consecutive positions."""
    first = last = positions[0]
    for each in positions[1:]:
        if each != last + 1:
            yield first, last
            first = each
        last = each
    yield first, last
