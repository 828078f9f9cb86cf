"""A recorded run, read from its file: finished, being written, or left by a killed process."""

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

import numpy as np
import torch

from gammabeta.signal.record import APPLICATION_ID, FORMAT_VERSION, RecordError, file_path
from gammabeta.signal.summary import Summary

_SIGNALS = """
SELECT probe, count, mean, std, p15, p50, p85, minimum, maximum, histogram, under, over, nonfinite,
  zeros, saturated, dead, gradient
FROM signal WHERE frame = ? ORDER BY probe
"""

# What the columns hold: SQLite itself does not see to it.
_NUMBER = (int, float, type(None))
_ARM = (int, str)
_PROBE = (int, int, int, str, str, (str, type(None)))
_SCALAR = (int, int, int, str, _NUMBER)
_FRAME = (int, int, int, _NUMBER)
_SIGNAL = (int, int, *(_NUMBER,) * 7, object, int, int, int, int, *(_NUMBER,) * 3)


@dataclass(frozen=True)
class Probe:
    """One place measured: a stage of a layer of an arm."""

    id: int
    arm: int
    layer: int
    name: str
    stage: str
    activation: str | None


@dataclass(frozen=True)
class Frame:
    """One recorded step of one arm; ``id`` grows in the order of recording."""

    id: int
    arm: int
    step: int
    seconds: float
    signals: dict[int, Summary]


@dataclass(frozen=True)
class Scalar:
    """One number of one step of one arm, such as its loss; NaN where it was not a number."""

    id: int
    arm: int
    step: int
    name: str
    value: float


class Run:
    """A run's record, open for reading. Close it, or use it as a context manager.

    Args:
        path: the file; a leading ``~`` is the home folder.

    Raises:
        RecordError: no such file, not a record, cut short, locked, or from a newer gammabeta.
        TypeError: ``path`` is no path.

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
        if not self.path.is_file():  # a FIFO would be waited for
            raise RecordError(f"{self.path} is not a regular file; give the .sqlite file of a run")
        self._connection = self._open()
        try:
            self._check()
            self.meta: dict[str, Any] = self._read_meta()
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
        # Read-only first. A record in WAL mode in a folder that cannot be written, with no
        # writer's files beside it, opens only as immutable, which it then is.
        for mode in ("mode=ro", "mode=ro&immutable=1"):
            try:
                return self._connect(f"{uri}?{mode}")
            except (sqlite3.Error, UnicodeDecodeError) as e:
                if "unable to open" in str(e) and mode == "mode=ro":
                    continue
                raise self._readable(e) from e
        raise RecordError(f"{self.path} cannot be opened")

    def _connect(self, uri: str) -> sqlite3.Connection:
        """Open the database and read of it, which is when SQLite first looks at the file."""
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
        # SQLite reads a last page that is cut short as if zeros followed. While there is a log,
        # what the file lacks may be in it.
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

    @property
    def title(self) -> str:
        """What the run is called."""
        return str(self.meta.get("title", ""))

    @property
    def settings(self) -> dict[str, Any]:
        """What the run was started with."""
        settings = self.meta.get("settings", {})
        if not isinstance(settings, dict):
            raise RecordError(f"{self.path} is damaged: its settings are no dict")
        return dict(settings)

    def status(self) -> str:
        """``"running"``, ``"finished"``, ``"interrupted"``, ``"failed"``, or ``"killed"``.

        A run that says it is running, but whose process is known to be gone, was killed.
        """
        self.meta = self._read_meta()
        status = str(self.meta.get("status", "finished"))
        if status != "running" or self.meta.get("host") != platform.node():
            return status
        pid = self.meta.get("pid", 0)
        return status if isinstance(pid, int) and _alive(pid) else "killed"

    def arms(self) -> dict[int, str]:
        """Arm id → name."""
        return dict(self._table(_ARM, "SELECT id, name FROM arm ORDER BY id"))

    def probes(self) -> list[Probe]:
        """Every place measured so far."""
        return [
            Probe(*row)
            for row in self._table(
                _PROBE, "SELECT id, arm, layer, name, stage, activation FROM probe"
            )
        ]

    def scalars(self, after: int = 0) -> list[Scalar]:
        """Scalars recorded after the one with id ``after``, oldest first."""
        rows = self._table(
            _SCALAR, "SELECT id, arm, step, name, value FROM scalar WHERE id > ? ORDER BY id", after
        )
        return [Scalar(i, a, s, n, math.nan if v is None else v) for i, a, s, n, v in rows]

    def frames(self, after: int = 0, most: int = -1) -> Iterator[Frame]:
        """Frames recorded after the one with id ``after``, oldest first, at most ``most``."""
        for id_, arm, step, seconds in self._table(
            _FRAME,
            "SELECT id, arm, step, seconds FROM frame WHERE id > ? ORDER BY id LIMIT ?",
            *(after, most),
        ):
            rows = self._table(_SIGNAL, _SIGNALS, id_)
            yield Frame(id_, arm, step, seconds, {row[0]: self._summary(row[1:]) for row in rows})

    def _summary(self, row: tuple[Any, ...]) -> Summary:
        count, *moments = row[:8]
        blob, under, over, nonfinite, zeros, saturated, dead, gradient = row[8:]
        try:
            mean, std, p15, p50, p85, minimum, maximum = (
                math.nan if value is None else float(value) for value in moments
            )
            counts = np.frombuffer(zlib.decompress(blob), dtype=np.uint32).astype(np.int64)
        except (zlib.error, TypeError, ValueError) as e:
            raise RecordError(f"{self.path} is damaged: a signal cannot be read ({e})") from e
        return Summary(
            count=count,
            mean=mean,
            std=std,
            p15=p15,
            p50=p50,
            p85=p85,
            minimum=minimum,
            maximum=maximum,
            histogram=torch.from_numpy(counts),
            under=under,
            over=over,
            nonfinite=nonfinite,
            zeros=zeros,
            saturated=saturated,
            dead=dead,
            gradient=gradient,
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _alive(pid: int) -> bool:
    """Whether a process of this machine has the id ``pid``; yes where that cannot be asked."""
    if pid == os.getpid() or os.name == "nt":  # on Windows, os.kill(pid, 0) would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # it lives, but is somebody else's
        return True
    return pid > 0
