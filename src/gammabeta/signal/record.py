"""Write the record of a run: one SQLite file, written by one background thread.

Each frame is one transaction, so a process killed at any moment leaves every frame it had
committed. While a run is being written, the file is in WAL mode and other processes can read it.
Closing the record turns it into one plain file that can be copied. `gammabeta.signal.run` reads it.
"""

from __future__ import annotations

import atexit
import os
import queue
import sqlite3
import sys
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple

from numpy.typing import NDArray

from gammabeta.signal import opening, schema
from gammabeta.signal.columns import Columns, checksum, pack
from gammabeta.signal.found import as_json
from gammabeta.signal.opening import set_meta
from gammabeta.signal.paths import RecordError, RecordExistsError, record_path
from gammabeta.signal.schema import Summary

__all__ = ["Measured", "Record", "RecordError", "RecordExistsError", "record_path"]

Rows = Sequence[tuple[str, Sequence[Any]]]


class Measured(NamedTuple):
    """The signals of a frame, for some probes the value of each channel, and more scalars."""

    columns: Columns
    channels: Mapping[int, NDArray[Any]]
    scalars: Mapping[str, float]


Scalars = Mapping[str, float] | Callable[[], Mapping[str, float]]
Signals = Mapping[int, Summary] | Callable[[], Measured]

_FRAME = "INSERT INTO frame VALUES(?, ?, ?, ?, ?, ?, ?, ?)"
_MOST_FRAMES = 16
"""Frames that may wait for the disk; a further one waits until there is room."""
_SCALAR = "INSERT INTO scalar(arm, step, name, value) VALUES(?, ?, ?, ?)"


class _FrameRows:
    """A function that returns the rows of a frame."""

    def __init__(self, make: Callable[[], Rows]) -> None:
        self._make = make

    def __call__(self) -> Rows:
        return self._make()


class Record:
    """A run that is being recorded. Close it, or use it as a context manager.

    A background thread writes the file. An error in this thread (for example, a full disk) ends the
    recording but not the training: the error is stored in `error`, and later writes are dropped.

    A copy of a record, or one that was pickled, is inert: it records nothing.

    Args:
        path: the file, see `record_path`. Missing folders are created.
        title: title of the run on the page.
        settings: settings of the run; any values that JSON can represent.
        resume: continue the file if it exists, as a job does that is started again. A number is the
            last step to keep: what was recorded after it is deleted.
        overwrite: replace the file if it exists.
        meta: more about the run as a whole, as JSON can represent it.

    Attributes:
        path: path of the file.
        error: the error that ended the recording; None if there was none.
        lost: the error because of which the last lost frame could not be computed; None for none.
        busy: CPU seconds that the background thread has spent on frames.

    Raises:
        RecordExistsError: the file exists, and neither ``resume`` nor ``overwrite`` is given.
        RecordError: the file cannot be created or continued.
        ValueError: both ``resume`` and ``overwrite`` are given.
        TypeError: an argument has the wrong type, or JSON cannot represent ``settings``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        title: str = "",
        settings: Mapping[str, Any] | None = None,
        *,
        resume: bool | int = False,
        overwrite: bool = False,
        meta: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = record_path(path)
        self.error: Exception | None = None
        self.lost: Exception | None = None
        self.busy = 0.0
        start = opening.prepare(self.path, title, settings, resume, overwrite)
        start.meta.update(meta or {})
        self._arms = start.arms
        self._probes = start.probes
        self._rows = start.rows
        self._steps = start.steps
        self._frames = start.frames
        self._start = start
        self._pid = os.getpid()
        self._fields = schema.FIELDS
        self._queue: queue.Queue[Rows | Callable[[], Rows] | None] = queue.Queue(256)
        self._waiting = 0  # frames in the queue
        self._room = threading.Semaphore(_MOST_FRAMES)
        self._lock = threading.Lock()
        self._closed = False
        ready = threading.Event()
        self._writer = threading.Thread(
            target=self._write, args=(start, ready), name="gammabeta record", daemon=True
        )
        self._writer.start()
        _OPEN.add(self)
        ready.wait()
        if self.error is not None:
            self._closed = True
            self._queue.put(None)
            self._writer.join()
            start.undo(self.path)
            raise RecordError(f"{self.path} cannot be written: {self.error}") from self.error

    @property
    def arms(self) -> tuple[str, ...]:
        """Names of the arms added so far."""
        return tuple(self._arms)

    @property
    def backlog(self) -> int:
        """Number of frames that were measured, but are not yet in the file."""
        return self._waiting

    def last_step(self, arm: str) -> int:
        """Return the last recorded step of ``arm``; 0 if there is none."""
        return self._steps.get(self._arms.get(arm, -1), 0)

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
            layer: number of the row; 1 is the first row of the network.
            name: name of the row, such as the name of a module.
            stage: one of `gammabeta.signal.stages.STAGES`.
            activation: name of the layer's activation; None if unknown.
        """
        key = (arm, layer, stage)
        known = self._probes.get(key)
        if known is not None:
            return known
        with self._lock:
            if key not in self._probes:
                self._probes[key] = len(self._probes)
                row = (self._probes[key], arm, layer, name, stage, activation)
                self._put([("INSERT INTO probe VALUES(?, ?, ?, ?, ?, ?)", row)])
            return self._probes[key]

    def layer(self, arm: int, name: str) -> int:
        """Return the number of the row called ``name``; the first call gives it the next one."""
        with self._lock:
            if (arm, name) not in self._rows:
                used = [layer for (a, _), layer in self._rows.items() if a == arm]
                self._rows[arm, name] = max(used, default=0) + 1
            return self._rows[arm, name]

    def write(
        self,
        arm: int,
        step: int,
        scalars: Scalars,
        signals: Signals | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Queue one step of one arm, in one transaction.

        Args:
            arm: id of the arm.
            step: number of optimizer steps so far. Each step of an arm can be written once.
            scalars: name → value, for example the loss, or a function that returns them, which the
                background thread calls. NaN is stored as NULL.
            signals: if the step is a frame: probe id → summary, or a function without arguments
                that returns the signals as `Measured`; the background thread calls it.
            seconds: time since the run began, in seconds.
        """

        def numbers() -> list[tuple[str, Sequence[Any]]]:
            values = scalars() if callable(scalars) else scalars
            return [(_SCALAR, (arm, step, name, value)) for name, value in values.items()]

        if signals is not None and not self._closed:
            self._room.acquire()  # frames are large: a slow disk must not fill the memory
        with self._lock:
            if signals is None:
                self._put(numbers if callable(scalars) else numbers())
                return
            frame = (self._frames + 1, arm, step, seconds)
            self._put(_FrameRows(lambda: [*numbers(), *self._frame(frame, signals)]))
            self._frames += 1
            self._waiting += 1

    def mark(self, arm: int, step: int, text: str) -> None:
        """Queue a mark: a word at a step, such as ``"lr drop"``."""
        with self._lock:
            row = (arm, step, text)
            self._put([("INSERT INTO mark(arm, step, text) VALUES(?, ?, ?)", row)])

    def finding(self, arm: int, step: int, text: str, finding: Mapping[str, Any]) -> None:
        """Queue a finding of the doctor, and a mark with its severity and its text.

        Args:
            arm: id of the arm.
            step: step at which it began.
            text: one line.
            finding: more about it, see `gammabeta.signal.found`; it has a ``severity``.
        """
        row = (arm, step, as_json({**finding, "text": text}))
        with self._lock:
            mark = (arm, step, f"{finding['severity']} {text}")
            self._put(
                [
                    ("INSERT INTO mark(arm, step, text) VALUES(?, ?, ?)", mark),
                    ("INSERT INTO finding(arm, step, finding) VALUES(?, ?, ?)", row),
                ]
            )

    def flush(self) -> None:
        """Wait until the file holds everything that was written so far."""
        self._queue.join()

    def close(self, status: str = "finished", meta: Mapping[str, Any] | None = None) -> None:
        """Write what is still queued, and close the file.

        Args:
            status: ``"finished"``, ``"interrupted"`` or ``"failed"``.
            meta: more about the run as a whole, as JSON can represent it.
        """
        with self._lock:
            if self._closed:
                return
            self._put([set_meta(k, v) for k, v in {**(meta or {}), "status": status}.items()])
            self._closed = True
            self._queue.put(None)
        self._writer.join()

    def _put(self, rows: Rows | Callable[[], Rows]) -> None:
        if self._closed:
            raise RecordError(f"{self.path} is closed; nothing more can be recorded in it")
        self._queue.put(rows)

    def _frame(self, frame: tuple[int, int, int, float], signals: Signals) -> Rows:
        """Return the rows of a frame. Runs in the thread."""
        try:
            measured = signals() if callable(signals) else Measured(Columns.of(signals), {}, {})
        except Exception as e:
            self.lost = e
            return []
        values, histograms = pack(measured.columns, self._fields)
        crc = checksum(frame[2], values, histograms)
        rows: list[tuple[str, Sequence[Any]]] = [
            (_FRAME, (*frame, len(measured.columns.probes), values, histograms, crc))
        ]
        for probe, channels in measured.channels.items():
            row = (frame[0], probe, zlib.compress(channels.astype("<f4").tobytes(), 1))
            rows.append(("INSERT INTO channel VALUES(?, ?, ?)", row))
        rows += [(_SCALAR, (*frame[1:3], n, v)) for n, v in measured.scalars.items()]
        return rows

    def _write(self, start: opening.Start, ready: threading.Event) -> None:
        """Commit each item of the queue until the item None or an error. Runs in the thread."""
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self.path, isolation_level=None, timeout=10)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            start.write(connection)
        except Exception as e:  # any error: __init__ is waiting for `ready`
            self.error = e
        ready.set()
        while (item := self._queue.get()) is not None:
            began = time.thread_time()
            try:
                if self.error is None and connection is not None:
                    rows = item() if callable(item) else item
                    connection.execute("BEGIN")
                    for sql, values in rows:
                        connection.execute(sql, values)
                    connection.execute("COMMIT")
            except Exception as e:  # if the thread died, training would block on a full queue
                self.error = e
            finally:
                if isinstance(item, _FrameRows):
                    self.busy += time.thread_time() - began
                    self._waiting -= 1
                    self._room.release()
                del item
                self._queue.task_done()
        self._queue.task_done()  # the None
        if connection is not None:
            if self.error is None:
                _make_plain(connection)
            connection.close()

    def discard(self) -> None:
        """Close the record, and delete its file if this object created it."""
        self.close("failed")
        self._start.undo(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        from gammabeta.signal.inert_record import InertRecord  # which is a Record

        return InertRecord, (str(self.path),)

    def __enter__(self) -> Record:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(status_after(kind))


def status_after(error: type[BaseException] | None) -> str:
    """Return the status of a run that has ended with ``error``; None for a normal end."""
    if error is None:
        return "finished"
    return "interrupted" if issubclass(error, KeyboardInterrupt) else "failed"


_OPEN: weakref.WeakSet[Record] = weakref.WeakSet()


@atexit.register
def _close_open_records() -> None:
    """Close the records that a script has left open; their threads would die with the process."""
    error = getattr(sys, "last_value", None)  # what the interpreter ends with
    for record in list(_OPEN):
        if record._pid == os.getpid():  # not the copy in a forked process
            record.close(status_after(None if error is None else type(error)))


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
