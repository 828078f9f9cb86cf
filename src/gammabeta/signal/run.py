"""Read the record of a run: finished, still being written, or left by a killed process."""

from __future__ import annotations

import json
import math
import os
import platform
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gammabeta.signal import schema
from gammabeta.signal.paths import RecordError, file_path
from gammabeta.signal.schema import Field, Summary
from gammabeta.signal.tables import APPLICATION_ID, FORMAT_VERSION, NUMBER, SignalTable

# Python types of the columns; SQLite itself does not enforce them.
_ARM = (int, str)
_PROBE = (int, int, int, str, str, (str, type(None)))
_SCALAR = (int, int, int, str, NUMBER)
_FRAME = (int, int, int, NUMBER)


@dataclass(frozen=True)
class Probe:
    """One place that is measured: a stage of a layer of an arm."""

    id: int
    arm: int
    layer: int
    name: str
    stage: str
    activation: str | None


@dataclass(frozen=True)
class Frame:
    """One recorded step of one arm. Ids increase in the order of recording."""

    id: int
    arm: int
    step: int
    seconds: float
    signals: dict[int, Summary]


@dataclass(frozen=True)
class Scalar:
    """One number of one step of one arm, for example its loss. NULL is read as NaN."""

    id: int
    arm: int
    step: int
    name: str
    value: float


class Run:
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
        self.path = file_path("path", path)
        if self.path.is_dir():
            raise RecordError(f"{self.path} is a folder; give the .sqlite file of a run")
        if not os.path.exists(self.path):
            raise RecordError(f"{self.path} does not exist; give the .sqlite file of a run")
        if not self.path.is_file():  # opening a FIFO would block
            raise RecordError(f"{self.path} is not a regular file; give the .sqlite file of a run")
        self._connection = self._open()
        try:
            self._check()
            self.meta: dict[str, Any] = self._read_meta()
            self._signals = self._signal_table()
        except BaseException:
            self._connection.close()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            with self.path.open("rb") as file:
                head = file.read(16)
        except OSError as e:
            raise RecordError(f"{self.path} cannot be read: {e.strerror or e}") from e
        if not head:
            raise RecordError(f"{self.path} is empty; the run was stopped before it began")
        if head != b"SQLite format 3\0":
            raise RecordError(f"{self.path} is not a run recorded by gammabeta")
        uri = self.path.absolute().as_uri()
        # Try read-only first. In a folder that is not writable, a record in WAL mode without a -wal
        # file opens only as immutable. That is safe: nobody can write it there.
        for mode in ("mode=ro", "mode=ro&immutable=1"):
            try:
                return self._connect(f"{uri}?{mode}")
            except (sqlite3.Error, UnicodeDecodeError) as e:
                if "unable to open" in str(e) and mode == "mode=ro":
                    continue
                raise self._readable(e) from e
        raise RecordError(f"{self.path} cannot be opened")

    def _connect(self, uri: str) -> sqlite3.Connection:
        """Open the database and read from it, because SQLite looks at the file only then."""
        connection = sqlite3.connect(uri, uri=True, timeout=2, check_same_thread=False)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            connection.close()
            raise
        return connection

    def _readable(self, error: Exception) -> RecordError:
        text = str(error)
        if "locked" in text:
            return RecordError(f"{self.path} is locked by another process; close that one first")
        damage = ("malformed", "disk image", "not a database", "UTF-8", "utf-8")
        if any(word in text for word in damage):
            return RecordError(f"{self.path} is damaged or cut short ({text}); use a copy of it")
        return RecordError(f"{self.path} cannot be read: {text}")

    def _check(self) -> None:
        application = self._one("PRAGMA application_id")
        version = self._one("PRAGMA user_version")
        if application != APPLICATION_ID:
            raise RecordError(f"{self.path} is an SQLite file, but no run recorded by gammabeta")
        if version > FORMAT_VERSION:
            raise RecordError(
                f"{self.path} has format {version}, newer than the {FORMAT_VERSION} this gammabeta "
                "reads; upgrade gammabeta"
            )
        # If the last page is cut short, SQLite reads zeros for the rest. If there is a log, the
        # missing part may be in the log.
        log = Path(f"{self.path}-wal")
        try:
            size = self.path.stat().st_size
        except OSError as e:  # deleted since it was opened
            raise RecordError(f"{self.path} cannot be read: {e.strerror or e}") from e
        if size % self._one("PRAGMA page_size") and not log.exists():
            raise RecordError(f"{self.path} is cut short; use a copy of it")

    def _one(self, sql: str) -> Any:
        return self._rows(sql)[0][0]

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._connection.execute(sql, values).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as e:
            raise self._readable(e) from e

    def _table(self, kinds: tuple[Any, ...], sql: str, *values: Any) -> list[Any]:
        rows = self._rows(sql, *values)
        for row in rows:
            if not all(map(isinstance, row, kinds)):
                raise RecordError(f"{self.path} is damaged: it holds a value of the wrong type")
        return rows

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

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields that the file has. In its summaries, the other fields are NaN or None."""
        return self._signals.fields

    @property
    def title(self) -> str:
        """Title of the run."""
        return str(self.meta.get("title", ""))

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
        status = str(self.meta.get("status", "finished"))
        if status != "running" or self.meta.get("host") != platform.node():
            return status
        pid = self.meta.get("pid", 0)
        return status if isinstance(pid, int) and _alive(pid) else "killed"

    def arms(self) -> dict[int, str]:
        """Return the names of the arms by id."""
        return dict(self._table(_ARM, "SELECT id, name FROM arm ORDER BY id"))

    def probes(self) -> list[Probe]:
        """Return the probes recorded so far."""
        return [
            Probe(*row)
            for row in self._table(
                _PROBE, "SELECT id, arm, layer, name, stage, activation FROM probe"
            )
        ]

    def scalars(self, after: int = 0) -> list[Scalar]:
        """Return the scalars with an id above ``after``, oldest first."""
        rows = self._table(
            _SCALAR, "SELECT id, arm, step, name, value FROM scalar WHERE id > ? ORDER BY id", after
        )
        return [Scalar(i, a, s, n, math.nan if v is None else v) for i, a, s, n, v in rows]

    def frames(self, after: int = 0, most: int = -1) -> Iterator[Frame]:
        """Yield the frames with an id above ``after``, oldest first.

        Args:
            after: id of the last frame to skip.
            most: maximum number of frames; −1 for all.
        """
        for id_, arm, step, seconds in self._table(
            _FRAME,
            "SELECT id, arm, step, seconds FROM frame WHERE id > ? ORDER BY id LIMIT ?",
            *(after, most),
        ):
            rows = self._table(self._signals.types, self._signals.select, id_)
            yield Frame(id_, arm, step, seconds, {row[0]: self._summary(row[1:]) for row in rows})

    def _summary(self, values: tuple[Any, ...]) -> Summary:
        try:
            return self._signals.summary(values)
        except (zlib.error, TypeError, ValueError) as e:
            raise RecordError(f"{self.path} is damaged: a signal cannot be read ({e})") from e

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
