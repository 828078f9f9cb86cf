"""The record of a run: one SQLite file, written by one background thread.

A frame is one transaction, so a process killed at any moment leaves every frame it had committed.
While a run is being written the file is in WAL mode and may be read by anybody; when the record is
closed it becomes one plain file that can be copied. `gammabeta.signal.run` reads it.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import queue
import sqlite3
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from gammabeta.signal import axis
from gammabeta.signal.summary import Summary

APPLICATION_ID = 0x67616D62  # "gamb": tells SQLite tools, and us, whose file this is
FORMAT_VERSION = 1
SUFFIX = ".sqlite"

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE arm(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE probe(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), layer INTEGER NOT NULL,
  name TEXT NOT NULL, stage TEXT NOT NULL, activation TEXT,
  UNIQUE(arm, layer, stage));
CREATE TABLE scalar(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  name TEXT NOT NULL, value REAL, UNIQUE(arm, step, name));
CREATE TABLE frame(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  seconds REAL NOT NULL, UNIQUE(arm, step));
CREATE TABLE signal(
  frame INTEGER NOT NULL REFERENCES frame(id), probe INTEGER NOT NULL REFERENCES probe(id),
  count INTEGER NOT NULL, mean REAL, std REAL, p15 REAL, p50 REAL, p85 REAL,
  minimum REAL, maximum REAL, histogram BLOB NOT NULL, under INTEGER NOT NULL,
  over INTEGER NOT NULL, nonfinite INTEGER NOT NULL, zeros INTEGER NOT NULL,
  saturated REAL, dead REAL, gradient REAL,
  PRIMARY KEY(frame, probe)) WITHOUT ROWID;
"""


class RecordError(ValueError):
    """A record that cannot be written or read; the message says why and what would do."""


class RecordExistsError(RecordError):
    """The file that a new record should create exists."""


def file_path(argument: str, value: str | os.PathLike[str]) -> Path:
    """Return ``value`` as a path, with ``~`` as the home folder.

    Args:
        argument: what the person calls it, for the message.
        value: what the person gave.

    Raises:
        RecordError: it names no file, or its ``~`` no home folder.
        TypeError: it is no path.

    Example:
        >>> file_path("path", "~/runs").is_absolute()
        True
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{argument} is a {type(value).__name__}; give the path of a file")
    text = os.fspath(value)
    if not text or "\0" in text:
        raise RecordError(f"{argument}={text!r} names no file; give one, such as runs/first")
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise RecordError(f"{argument}={text!r} names no home folder; give the whole path") from e


def record_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as the file of a record: ``.sqlite`` is added unless it ends so already.

    A leading ``~`` is the home folder.

    Raises:
        RecordError: it names no file.
        TypeError: it is no path.

    Example:
        >>> record_path("runs/v1.5").name
        'v1.5.sqlite'
    """
    path = file_path("path", path)
    if not path.name:
        raise RecordError(f"'{path}' names no file; give one, such as runs/first{SUFFIX}")
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)


class Record:
    """A run being recorded. Close it, or use it as a context manager.

    Args:
        path: the file to create, see `record_path`. Missing folders are made.
        title: what the page calls the run.
        settings: what the run was started with; anything JSON can hold.

    Raises:
        RecordExistsError: the file exists.
        RecordError: it cannot be created.
        TypeError: an argument of the wrong type, or ``settings`` hold what JSON cannot.

    Writing happens in a background thread. An error there (a full disk, say) ends the recording,
    not the training: it is kept in `error`, and later writes are dropped.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        title: str = "",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = record_path(path)
        self.error: Exception | None = None
        if not isinstance(title, str):
            raise TypeError(f"title is a {type(title).__name__}; give text")
        if not isinstance(settings, (Mapping, type(None))):
            raise TypeError(f"settings is a {type(settings).__name__}; give a dict")
        try:
            json.dumps(dict(settings or {}))
        except (TypeError, ValueError, RecursionError) as e:
            raise TypeError(
                f"settings cannot be kept as JSON: {e}; give text, numbers, lists and dicts"
            ) from e
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Exclusive creation: two runs started at once cannot take the same file.
            os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError as e:
            if self.path.exists():
                raise RecordExistsError(
                    f"{self.path} exists; give another path, or move it away (nothing was "
                    "overwritten)"
                ) from e
            raise RecordError(
                f"{self.path} cannot be created: a folder on its way is a file"
            ) from e
        except OSError as e:
            raise RecordError(f"{self.path} cannot be created: {e.strerror or e}") from e
        self._queue: queue.Queue[Sequence[tuple[str, Sequence[Any]]] | None] = queue.Queue(256)
        self._arms: dict[str, int] = {}
        self._probes: dict[tuple[int, int, str], int] = {}
        self._frames = 0
        self._lock = threading.Lock()
        self._closed = False
        created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        meta = {
            "created": created,
            "status": "running",
            "title": title,
            "settings": dict(settings or {}),
            "pid": os.getpid(),
            "host": platform.node(),
            "axis": {"limit": axis.LIMIT, "linear": axis.LINEAR, "bins": axis.BINS},
            "torch": torch.__version__,
        }
        ready = threading.Event()
        self._writer = threading.Thread(
            target=self._write, args=(meta, ready), name="gammabeta record", daemon=True
        )
        self._writer.start()
        ready.wait()
        if self.error is not None:
            self._closed = True
            self._queue.put(None)
            self._writer.join()
            for suffix in ("", "-wal", "-shm"):
                Path(f"{self.path}{suffix}").unlink(missing_ok=True)
            raise RecordError(f"{self.path} cannot be written: {self.error}") from self.error

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms so far."""
        return tuple(self._arms)

    def arm(self, name: str) -> int:
        """Return the id of the arm called ``name``, adding it the first time.

        Raises:
            TypeError: ``name`` is no text.
        """
        if not isinstance(name, str):
            raise TypeError(f"arm is a {type(name).__name__}; give a name, such as 'model'")
        with self._lock:
            if name not in self._arms:
                self._arms[name] = len(self._arms)
                self._put([("INSERT INTO arm VALUES(?, ?)", (self._arms[name], name))])
            return self._arms[name]

    def probe(self, arm: int, layer: int, name: str, stage: str, activation: str | None) -> int:
        """Return the id of a probe, adding it the first time.

        Args:
            arm: id of the arm.
            layer: 1 for the first layer of the network.
            name: the layer's name in the model, a person's own words.
            stage: one of `gammabeta.signal.capture.STAGES`.
            activation: name of the layer's activation, if known.
        """
        with self._lock:
            key = (arm, layer, stage)
            if key not in self._probes:
                self._probes[key] = len(self._probes)
                row = (self._probes[key], arm, layer, name, stage, activation)
                self._put([("INSERT INTO probe VALUES(?, ?, ?, ?, ?, ?)", row)])
            return self._probes[key]

    def write(
        self,
        arm: int,
        step: int,
        scalars: Mapping[str, float],
        signals: Mapping[int, Summary] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Queue one step of one arm, in one transaction.

        Args:
            arm: id of the arm.
            step: optimizer steps taken when it was measured; new for this arm.
            scalars: name → value, such as the loss; NaN is kept as NULL.
            signals: probe id → summary, if the step is a frame.
            seconds: since the run began.
        """
        rows: list[tuple[str, Sequence[Any]]] = [
            ("INSERT INTO scalar(arm, step, name, value) VALUES(?, ?, ?, ?)", (arm, step, n, v))
            for n, v in scalars.items()
        ]
        with self._lock:
            if signals is not None:
                self._frames += 1
                frame = self._frames
                rows.append(("INSERT INTO frame VALUES(?, ?, ?, ?)", (frame, arm, step, seconds)))
                rows.extend((_INSERT_SIGNAL, _signal_row(frame, p, s)) for p, s in signals.items())
            self._put(rows)

    def flush(self) -> None:
        """Wait until everything queued so far is committed."""
        self._queue.join()

    def close(self, status: str = "finished") -> None:
        """Commit what is queued and end the record.

        Args:
            status: ``"finished"``, ``"interrupted"`` or ``"failed"``.
        """
        with self._lock:
            if self._closed:
                return
            self._put([_set_meta("status", status)])
            self._closed = True
            self._queue.put(None)
        self._writer.join()

    def _put(self, rows: Sequence[tuple[str, Sequence[Any]]]) -> None:
        if self._closed:
            raise RecordError(f"{self.path} is closed; nothing more can be recorded in it")
        self._queue.put(rows)

    def _write(self, meta: Mapping[str, Any], ready: threading.Event) -> None:
        """Own the connection: commit each item of the queue, until None or an error."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id={APPLICATION_ID};"
                f"PRAGMA user_version={FORMAT_VERSION};{SCHEMA}"
            )
            for key, value in meta.items():
                connection.execute(*_set_meta(key, value))
            connection.execute("COMMIT")
        except Exception as e:  # whatever it is, somebody is waiting for `ready`
            self.error = e
        ready.set()
        while (rows := self._queue.get()) is not None:
            try:
                if self.error is None and connection is not None:
                    connection.execute("BEGIN")
                    for sql, values in rows:
                        connection.execute(sql, values)
                    connection.execute("COMMIT")
            except Exception as e:  # a thread that dies would leave training at a full queue
                self.error = e
            finally:
                self._queue.task_done()
        self._queue.task_done()  # the None
        if connection is not None:
            if self.error is None:
                _make_plain(connection)
            connection.close()

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.close("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")


def _make_plain(connection: sqlite3.Connection) -> None:
    """Leave the WAL mode, so that the record is one plain file again.

    That needs a moment in which nobody reads; a live page reads several times a second, each time
    briefly. If somebody keeps the file open the WAL stays beside it, and both are valid.
    """
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            connection.execute("PRAGMA journal_mode=DELETE")
            return
        except sqlite3.Error:
            time.sleep(0.01)


_INSERT_SIGNAL = f"INSERT INTO signal VALUES({', '.join('?' * 18)})"


def _signal_row(frame: int, probe: int, s: Summary) -> tuple[Any, ...]:
    counts = zlib.compress(s.histogram.numpy().astype(np.uint32).tobytes(), 1)
    return (
        *(frame, probe, s.count, s.mean, s.std, s.p15, s.p50, s.p85, s.minimum, s.maximum),
        *(counts, s.under, s.over, s.nonfinite, s.zeros, s.saturated, s.dead, s.gradient),
    )


def _set_meta(key: str, value: Any) -> tuple[str, tuple[str, str]]:
    return "INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, json.dumps(value))
