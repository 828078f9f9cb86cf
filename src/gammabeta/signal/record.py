"""Write the record of a run: one SQLite file, written by one background thread.

Each frame is one transaction, so a process killed at any moment leaves every frame it had
committed. While a run is being written, the file is in WAL mode and other processes can read it.
Closing the record turns it into one plain file that can be copied. `gammabeta.signal.run` reads it.
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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from gammabeta.signal import axis, schema
from gammabeta.signal.paths import RecordError, RecordExistsError, record_path
from gammabeta.signal.schema import Summary
from gammabeta.signal.tables import APPLICATION_ID, FORMAT_VERSION, TABLES, SignalTable

__all__ = ["Record", "RecordError", "RecordExistsError", "record_path"]


class Record:
    """A run that is being recorded. Close it, or use it as a context manager.

    A background thread writes the file. An error in this thread (for example, a full disk) ends the
    recording but not the training: the error is stored in `error`, and later writes are dropped.

    Args:
        path: the file to create, see `record_path`. Missing folders are created.
        title: title of the run on the page.
        settings: settings of the run; any values that JSON can represent.

    Attributes:
        path: path of the file.
        error: the error that ended the recording; None if there was none.

    Raises:
        RecordExistsError: the file already exists.
        RecordError: the file cannot be created.
        TypeError: an argument has the wrong type, or JSON cannot represent ``settings``.
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
                f"settings cannot be stored as JSON: {e}; give text, numbers, lists and dicts"
            ) from e
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Exclusive creation: two runs that start at the same time cannot share a file.
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
        self._signals = SignalTable(schema.FIELDS)
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
            "fields": [asdict(each) for each in self._signals.fields],
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
        """Names of the arms added so far."""
        return tuple(self._arms)

    def arm(self, name: str) -> int:
        """Return the id of the arm called ``name``; the first call adds the arm.

        Raises:
            TypeError: ``name`` is not a string.
        """
        if not isinstance(name, str):
            raise TypeError(f"arm is a {type(name).__name__}; give a name, such as 'model'")
        with self._lock:
            if name not in self._arms:
                self._arms[name] = len(self._arms)
                self._put([("INSERT INTO arm VALUES(?, ?)", (self._arms[name], name))])
            return self._arms[name]

    def probe(self, arm: int, layer: int, name: str, stage: str, activation: str | None) -> int:
        """Return the id of a probe; the first call adds the probe.

        Args:
            arm: id of the arm.
            layer: number of the layer; 1 is the first layer of the network.
            name: name of the layer in the model.
            stage: one of `gammabeta.signal.capture.STAGES`.
            activation: name of the layer's activation; None if unknown.
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
            step: number of optimizer steps so far. Each step of an arm can be written once.
            scalars: name → value, for example the loss. NaN is stored as NULL.
            signals: probe id → summary, if the step is a frame.
            seconds: time since the run began, in seconds.
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
                table = self._signals
                rows.extend((table.insert, table.row(frame, p, s)) for p, s in signals.items())
            self._put(rows)

    def flush(self) -> None:
        """Wait until the file holds everything that was written so far."""
        self._queue.join()

    def close(self, status: str = "finished") -> None:
        """Write what is still queued, and close the file.

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
        """Commit each item of the queue until the item None or an error. Runs in the thread."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.executescript(
                f"BEGIN; PRAGMA application_id={APPLICATION_ID};"
                f"PRAGMA user_version={FORMAT_VERSION};{TABLES}{self._signals.create}"
            )
            for key, value in meta.items():
                connection.execute(*_set_meta(key, value))
            connection.execute("COMMIT")
        except Exception as e:  # any error: __init__ is waiting for `ready`
            self.error = e
        ready.set()
        while (rows := self._queue.get()) is not None:
            try:
                if self.error is None and connection is not None:
                    connection.execute("BEGIN")
                    for sql, values in rows:
                        connection.execute(sql, values)
                    connection.execute("COMMIT")
            except Exception as e:  # if the thread died, training would block on a full queue
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
    """Leave WAL mode, so that the record becomes one plain file.

    SQLite can do this only while no other connection reads. A live page reads several times per
    second, each time briefly, so retry for a second. If another process keeps the file open, the
    WAL stays next to it; the two files together are a valid record.
    """
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        try:
            connection.execute("PRAGMA journal_mode=DELETE")
            return
        except sqlite3.Error:
            time.sleep(0.01)


def _set_meta(key: str, value: Any) -> tuple[str, tuple[str, str]]:
    return "INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, json.dumps(value))
