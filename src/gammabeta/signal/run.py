"""Read the record of a run: finished, still being written, or left by a killed process."""

from __future__ import annotations

import glob
import json
import math
import os
import platform
import zlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import schema
from gammabeta.signal.columns import (
    Columns,
    DamagedError,
    checksum,
    unpack_values,
)
from gammabeta.signal.file import RecordFile
from gammabeta.signal.found import RecordedFinding, from_row
from gammabeta.signal.merging import merge
from gammabeta.signal.paths import RecordError
from gammabeta.signal.recorded import Frame, Mark, Moment, Probe, Scalar
from gammabeta.signal.schema import Field, Summary
from gammabeta.signal.tables import NUMBER, SignalTable
from gammabeta.signal.tabular import save, tabulate

# Python types of the columns; SQLite itself does not enforce them.
_ARM = (int, str)
_PROBE = (int, int, int, str, str, (str, type(None)))
_SCALAR = (int, int, int, str, NUMBER)
_INDEX = (int, int, int, NUMBER)
_FRAME = (int, int, int, NUMBER, int, bytes, bytes, int)
_MARK = (int, int, int, str)
_MOST_CHANNELS = 256


class Run(RecordFile):
    """The record of a run, open for reading. Close it, or use it as a context manager.

    Args:
        path: path of the file; a leading ``~`` is expanded to the home folder.

    Raises:
        RecordError: the file does not exist, is not a record, is damaged or locked, or was written
            by a newer version of gammabeta.
        TypeError: ``path`` is not a path.

    Example:
        >>> with Run("runs/demo.sqlite") as run:  # doctest: +SKIP
        ...     last = list(run.frames())[-1]
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._ranks: list[Run] = []
        self._probe_count = 0
        try:
            self._check()
            self.meta: dict[str, Any] = self._read_meta()
            self._signals = self._signal_table() if self.version < 3 else None
            self._fields = self._signals.fields if self._signals else self._described()
            self._ranks = self._other_ranks()
        except BaseException:
            self.close()
            raise

    def _text(self, key: str, default: str = "") -> str:
        found = self.meta.get(key, default)
        return found if isinstance(found, str) else default

    def _read_meta(self) -> dict[str, Any]:
        rows = self._rows("SELECT key, value FROM meta")
        try:
            return {key: json.loads(value) for key, value in rows}
        except (TypeError, ValueError, RecursionError) as e:
            raise RecordError(f"{self.path} is damaged: its description cannot be read") from e

    def _signal_table(self) -> SignalTable:
        """Return the table of signals with those columns of the file that this version knows."""
        columns = {name for _, name, *_ in self._rows("PRAGMA table_info(signal)")}
        for each in schema.FIELDS:
            if each.missing == "never" and each.name not in columns:
                raise RecordError(f"{self.path} is damaged: its signals have no {each.name}")
        return SignalTable([each for each in schema.FIELDS if each.name in columns])

    def _described(self) -> tuple[Field, ...]:
        """Return the fields of a frame, in the order of the file."""
        named = {each.name for each in fields(Field)}
        known = {each.name: each for each in schema.FIELDS}
        found = []
        try:
            for each in self.meta["fields"]:
                field = Field(**{key: each[key] for key in named if key in each})
                like = known.get(field.name, field)
                forms = ("INTEGER", "never"), ("REAL", "nan"), ("REAL", "none"), ("BLOB", "never")
                if (field.sql, field.missing) not in forms or field.sql != like.sql:
                    raise ValueError(field.name)
                found.append(like if like.missing == field.missing else field)
        except (KeyError, TypeError, ValueError) as e:
            raise RecordError(f"{self.path} is damaged: its fields cannot be read ({e})") from e
        missing = [n for n, f in known.items() if f.missing == "never" and f not in found]
        if missing:
            raise RecordError(f"{self.path} is damaged: its signals have no {missing[0]}")
        return tuple(found)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The known fields that the file has. In its summaries, the others are NaN or None."""
        known = {each.name for each in schema.FIELDS}
        return tuple(each for each in self._fields if each.name in known)

    @property
    def title(self) -> str:
        """Title of the run."""
        return self._text("title")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the run."""
        settings = self.meta.get("settings", {})
        if not isinstance(settings, dict):
            raise RecordError(f"{self.path} is damaged: its settings are not a dict")
        return dict(settings)

    def status(self) -> str:
        """Return ``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"`` or ``"killed"``.

        The status is read from the file again at each call. A run is killed if the file says that
        it is running, but its process no longer exists on this machine.
        """
        self.meta = self._read_meta()
        status = self._text("status", "finished")
        if status != "running" or self.meta.get("host") != platform.node():
            return status
        pid = self.meta.get("pid", 0)
        return status if isinstance(pid, int) and _alive(pid) else "killed"

    def arms(self) -> dict[int, str]:
        """Return the names of the arms by id."""
        return dict(self._ordered(_ARM, "SELECT id, name FROM arm ORDER BY id"))

    def probes(self, after: int = -1) -> list[Probe]:
        """Return the probes recorded so far with an id above ``after``, in the order of ids."""
        sql = "SELECT id, arm, layer, name, stage, activation FROM probe WHERE id > ? ORDER BY id"
        return [Probe(*row) for row in self._ordered(_PROBE, sql, after)]

    def scalars(self, after: int = 0, most: int = -1) -> list[Scalar]:
        """Return the scalars with an id above ``after``, oldest first.

        Args:
            after: id of the last scalar to skip.
            most: maximum number of scalars; −1 for all.
        """
        sql = "SELECT id, arm, step, name, value FROM scalar WHERE id > ? ORDER BY id LIMIT ?"
        rows = self._ordered(_SCALAR, sql, after, most)
        return [Scalar(i, a, s, n, math.nan if v is None else v) for i, a, s, n, v in rows]

    def marks(self, after: int = 0) -> list[Mark]:
        """Return the marks with an id above ``after``, oldest first."""
        if self.version < 3:
            return []
        sql = "SELECT id, arm, step, text FROM mark WHERE id > ? ORDER BY id"
        return [Mark(*row) for row in self._ordered(_MARK, sql, after)]

    def findings(self, after: int = 0) -> list[RecordedFinding]:
        """Return what the doctor found, with an id above ``after``, oldest first."""
        if not self._rows("SELECT name FROM sqlite_master WHERE name = 'finding'"):
            return []  # an older gammabeta began the file
        sql = "SELECT id, arm, step, finding FROM finding WHERE id > ? ORDER BY id"
        rows = self._ordered(_MARK, sql, after)
        try:
            return [from_row(*row) for row in rows]
        except ValueError as e:
            raise RecordError(f"{self.path} is damaged: {e}") from e

    def index(self, after: int = 0, most: int = -1) -> list[Moment]:
        """Return when the frames with an id above ``after`` were recorded, oldest first.

        Args:
            after: id of the last frame to skip.
            most: maximum number of frames; −1 for all.
        """
        sql = "SELECT id, arm, step, seconds FROM frame WHERE id > ? ORDER BY id LIMIT ?"
        return [Moment(*row) for row in self._ordered(_INDEX, sql, after, most)]

    def frames(self, after: int = 0, most: int = -1) -> Iterator[Frame]:
        """Yield the frames with an id above ``after``, oldest first.

        Args:
            after: id of the last frame to skip.
            most: maximum number of frames; −1 for all.
        """
        for moment in self.index(after, most):
            old = self._signals
            found = self._frame(moment) if old is None else self._old(old, moment)
            if found is not None and self._ranks:
                found = self._merged(found)
            if found is not None:
                yield found

    def _frame(self, moment: Moment) -> Frame | None:
        """Read one frame; None if it was deleted since."""
        sql = (
            "SELECT id, arm, step, seconds, probes, signals, histograms, crc FROM frame "
            "WHERE id = ?"
        )
        rows = self._table(_FRAME, sql, moment.id)
        if not rows:
            return None
        *_, count, signals, histograms, crc = rows[0]
        if checksum(moment.step, signals, histograms) != crc or not self._has_probes(count):
            raise RecordError(
                f"{self.path} is damaged: the numbers of step {moment.step} were changed"
            )
        try:
            probes, values = unpack_values(signals, count, self._fields)
        except DamagedError as e:
            raise RecordError(f"{self.path} is damaged: step {moment.step}: {e}") from e
        return Frame(moment, probes, values, histograms)

    def _has_probes(self, count: int) -> bool:
        """Return whether the file has so many probes, which bounds how long a frame can be."""
        if count > self._probe_count:
            self._probe_count = len(self.probes())  # there may be more of them by now
        return 0 <= count <= self._probe_count

    def _other_ranks(self) -> list[Run]:
        """Open the files of the other ranks beside that of rank 0."""
        if self.meta.get("ranks") != "all" or self.meta.get("rank") != 0:
            return []
        stem, suffix = self.path.stem, self.path.suffix
        found = self.path.parent.glob(f"{glob.escape(stem)}.rank*{glob.escape(suffix)}")
        return [Run(path) for path in sorted(found)]

    def _merged(self, frame: Frame) -> Frame:
        """Return ``frame`` together with those of the other ranks at its step."""
        frames, keys = [_columns(frame)], [self._keys()]
        arm = self.arms().get(frame.arm)
        for other in self._ranks:
            arms = {name: id_ for id_, name in other.arms().items()}
            rows = other._rows(
                "SELECT id, arm, step, seconds FROM frame WHERE arm = ? AND step = ?",
                *(arms.get(str(arm), -1), frame.step),
            )
            theirs = other._frame(Moment(*rows[0])) if rows else None
            if theirs is not None:
                frames.append(_columns(theirs))
                keys.append(other._keys())
        merged = merge(frames, keys)
        moment = Moment(frame.id, frame.arm, frame.step, frame.seconds)
        return Frame(moment, merged.probes, merged.values, merged.histograms)

    def _keys(self) -> dict[int, tuple[str, str]]:
        return {probe.id: (probe.name, probe.stage) for probe in self.probes()}

    def _old(self, table: SignalTable, moment: Moment) -> Frame:
        """Read one frame of format 1 or 2."""
        rows = self._ordered(table.types, table.select, moment.id)
        columns = Columns.of({row[0]: self._summary(table, row[1:]) for row in rows})
        return Frame(moment, columns.probes, columns.values, columns.histograms)

    def channels(self, probe: int, step: int) -> NDArray[Any] | None:
        """Return the value of each channel at a probe, as recorded at or last before ``step``.

        Args:
            probe: id of a probe whose stage is in `gammabeta.signal.stages.PER_CHANNEL`.
            step: number of a step.

        Returns:
            (C,) float32, of at most 192 evenly spaced channels; None if nothing was recorded.
        """
        if self.version < 3:
            return None
        rows = self._table(
            (bytes,),
            "SELECT channels FROM channel JOIN frame ON frame.id = channel.frame "
            "WHERE probe = ? AND step <= ? ORDER BY step DESC LIMIT 1",
            *(probe, step),
        )
        if not rows:
            return None
        most = 4 * _MOST_CHANNELS
        inflate = zlib.decompressobj()
        try:
            data = inflate.decompress(rows[0][0], most + 1)
        except zlib.error:
            data = b"?"
        if not inflate.eof or len(data) % 4 or len(data) > most:
            raise RecordError(f"{self.path} is damaged: it holds no values by channel")
        return np.frombuffer(data, dtype="<f4")

    def _summary(self, table: SignalTable, values: tuple[Any, ...]) -> Summary:
        try:
            return table.summary(values)
        except (zlib.error, TypeError, ValueError) as e:
            raise RecordError(f"{self.path} is damaged: a signal cannot be read ({e})") from e

    def table(self, kind: str = "signals") -> dict[str, NDArray[Any]]:
        """Return everything of one kind as columns: name → one value a row.

        ``pandas.DataFrame``, ``polars.DataFrame`` and ``pyarrow.table`` take the result as it is.

        Args:
            kind: ``"signals"``, ``"scalars"``, ``"marks"`` or ``"findings"``.

        Raises:
            ValueError: ``kind`` is unknown.

        Example:
            >>> with Run("runs/demo.sqlite") as run:  # doctest: +SKIP
            ...     losses = run.table("scalars")
        """
        return tabulate(self, kind)

    def save_table(self, path: str | os.PathLike[str], kind: str = "signals") -> Path:
        """Write `table` to a new file, .csv or .parquet; Parquet needs PyArrow.

        Raises:
            RecordError: the file exists or cannot be written, PyArrow is missing, or the path ends
                with neither.
        """
        return save(self, path, kind)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
        for other in self._ranks:
            other.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _columns(frame: Frame) -> Columns:
    return Columns(frame.probes, frame.values, frame.histograms)


def _alive(pid: int) -> bool:
    """Return whether a process with this id exists on this machine; True if unknown."""
    if pid == os.getpid() or os.name == "nt":  # on Windows, os.kill(pid, 0) would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # the process exists, but belongs to another user
        return True
    return pid > 0
