"""Reading a run: what was written comes back, and anything else is one clean RecordError."""

from __future__ import annotations

import json
import math
import os
import platform
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.signal import Record, RecordError, Run, axis
from gammabeta.signal.columns import Columns
from gammabeta.signal.record import Measured
from gammabeta.signal.recorded import Mark, Probe
from gammabeta.signal.tables import FORMAT_VERSION
from gammabeta.view import export
from tests.signal.recorded import STAGES, everything, fill, same, summary


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run of 2 arms × 4 frames × 8 probes."""
    with Record(tmp_path / "run", "A title", {"lr": 0.1}) as record:
        fill(record, 4)
        record.mark(0, 2, "lr drop")
    return record.path


def execute(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def test_round_trip(tmp_path: Path) -> None:
    settings = {"lr": 0.1, "names": ["a", "b"], "nested": {"none": None, "true": True}}
    with Record(tmp_path / "run", "γ & <β>", settings) as record:
        fill(record, 6)
    with Run(record.path) as run:
        assert run.title == "γ & <β>"
        assert run.settings == settings
        assert run.status() == "finished"
        assert run.meta["axis"] == {"limit": axis.LIMIT, "linear": axis.LINEAR, "bins": axis.BINS}
        assert run.meta["pid"] == os.getpid()
        assert run.arms() == {0: "without", 1: "with"}
        places = [(a, n, f"layers.{n}", s, "tanh") for a in (0, 1) for n in (1, 2) for s in STAGES]
        assert run.probes() == [Probe(i, *place) for i, place in enumerate(places)]

        order = [(step, arm) for step in range(1, 7) for arm in (0, 1)]
        frames = list(run.frames())
        assert [(f.id, f.step, f.arm, f.seconds) for f in frames] == [
            (i, step, arm, step / 4) for i, (step, arm) in enumerate(order, 1)
        ]
        for frame in frames:
            mine = range(8) if frame.arm == 0 else range(8, 16)
            assert list(frame.signals) == list(mine)
            for probe, signal in frame.signals.items():
                assert same(signal, summary(1000 * frame.step + probe))

        assert [(s.step, s.arm, s.name, s.value) for s in run.scalars()] == [
            (step, arm, name, value)
            for step, arm in order
            for name, value in [("loss", 1 / step), *([("accuracy", 0.05)] if step == 5 else [])]
        ]


def test_what_is_no_number_comes_back(tmp_path: Path) -> None:
    nan, inf = math.nan, math.inf
    odd = summary(
        1,
        mean=nan,
        std=nan,
        p15=nan,
        minimum=-inf,
        maximum=inf,
        saturated=None,
        dead=None,
        gradient=None,
        nonfinite=3,
    )
    bold = summary(2, mean=1e300, std=5e-324, gradient=inf, count=2**40)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probes = [record.probe(arm, 1, "fc", stage, None) for stage in ("z", "affine")]
        scalars = {"loss": nan, "up": inf, "down": -inf}
        record.write(arm, 1, scalars, dict(zip(probes, (odd, bold), strict=True)))
        record.write(arm, 2, {}, {})
        record.write(arm, 3, {})
    with Run(record.path) as run:
        first, empty = run.frames()
        assert same(first.signals[probes[0]], odd)
        assert same(first.signals[probes[1]], bold)
        assert (empty.step, empty.signals) == (2, {})  # a frame of nothing; step 3 was no frame
        loss, up, down = (s.value for s in run.scalars())
        assert math.isnan(loss)
        assert (up, down) == (inf, -inf)


def test_names_are_a_persons_own_words(tmp_path: Path) -> None:
    names = ["<script>alert(1)</script>", "'; DROP TABLE arm; --", "层 · γ", "", "a" * 10_000]
    with Record(tmp_path / "run", names[0]) as record:
        for name in names:
            arm = record.arm(name)
            record.probe(arm, 1, name, "z", name)
            record.write(arm, 1, {name: 1.0})
    title, _, _, arms, probes, scalars, _ = everything(record.path)
    assert title == names[0]
    assert list(arms.values()) == names
    assert [(p.name, p.activation) for p in probes] == [(n, n) for n in names]
    assert [s.name for s in scalars] == names


def test_continuing_from_where_one_was(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 3)
        record.flush()
        with Run(record.path) as run:
            seen = list(run.frames(most=4))
            assert [f.id for f in seen] == [1, 2, 3, 4]
            assert [f.id for f in run.frames(after=4)] == [5, 6]
            assert [f.id for f in run.frames(after=4, most=1)] == [5]
            assert list(run.frames(after=6)) == []
            last = run.scalars()[-1].id
            record.write(record.arm("without"), 4, {"loss": 0.25}, {})
            record.flush()
            assert [(f.id, f.step) for f in run.frames(after=6)] == [(7, 4)]
            assert [(s.step, s.value) for s in run.scalars(after=last)] == [(4, 0.25)]


def test_an_index_unpacks_nothing(finished: Path) -> None:
    execute(finished, "UPDATE frame SET signals = x'00', histograms = x'00'")
    with Run(finished) as run:
        order = [(step, arm) for step in range(1, 5) for arm in (0, 1)]
        assert run.index() == [(i, arm, step, step / 4) for i, (step, arm) in enumerate(order, 1)]
        assert [moment.id for moment in run.index(after=6)] == [7, 8]
        assert [moment.step for moment in run.index(after=2, most=3)] == [2, 2, 3]
        with pytest.raises(RecordError, match="were changed"):
            next(run.frames())


def test_a_frame_as_columns(finished: Path) -> None:
    with Run(finished) as run:
        frame = list(run.frames())[5]
    assert (frame.id, frame.arm, frame.step, frame.seconds) == (6, 1, 3, 0.75)
    assert frame.probes.tolist() == list(range(8, 16))
    assert frame.histograms.shape == (8, axis.BINS)
    for i, (probe, signal) in enumerate(frame.signals.items()):
        assert frame.probes[i] == probe
        assert frame.histograms[i].tolist() == signal.histogram.tolist()
        for name, column in frame.values.items():
            value = getattr(signal, name)
            assert column[i] == value or (value is None and math.isnan(column[i])), name


def test_a_frame_that_is_deleted_while_others_are_read(finished: Path) -> None:
    """As by a run that is started again at an earlier step."""
    with Run(finished) as run:
        frames = run.frames()
        assert next(frames).id == 1
        execute(finished, "DELETE FROM frame WHERE id IN (2, 3)")
        assert [frame.id for frame in frames] == [4, 5, 6, 7, 8]


def test_marks(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        a, b = record.arm("a"), record.arm("b")
        record.mark(a, 3, "lr drop")
        record.mark(b, 0, "γ & <b>")
        record.mark(a, 3, "lr drop")  # twice is twice
        record.flush()
        with Run(record.path) as run:
            assert run.marks() == [
                Mark(1, a, 3, "lr drop"),
                Mark(2, b, 0, "γ & <b>"),
                Mark(3, a, 3, "lr drop"),
            ]
            assert [mark.id for mark in run.marks(after=2)] == [3]
            assert run.marks(after=3) == []


def test_values_by_channel(tmp_path: Path) -> None:
    """The newest values that were recorded at or before a step."""
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        gamma, beta = (record.probe(arm, 1, "fc", stage, None) for stage in ("gamma", "beta"))
        for step, values in ((2, [1.0, 2.0]), (5, [3.0, 4.0, 5.0]), (6, None)):
            found = {} if values is None else {gamma: np.array(values, dtype=np.float64)}
            columns = Columns.of({gamma: summary(step)})
            record.write(arm, step, {}, lambda c=columns, f=found: Measured(c, f, {"extra": 1.0}))
    with Run(record.path) as run:
        read = {step: run.channels(gamma, step) for step in (0, 1, 2, 4, 5, 6, 10**9)}
        assert [None if v is None else v.tolist() for v in read.values()] == [
            *(None, None, [1.0, 2.0], [1.0, 2.0]),
            *([3.0, 4.0, 5.0],) * 3,
        ]
        assert run.channels(beta, 5) is None
        assert run.channels(999, 5) is None
        assert [s.step for s in run.scalars() if s.name == "extra"] == [2, 5, 6]
    bomb = zlib.compress(bytes(64 << 20))
    for blob in (b"", b"no zlib", zlib.compress(b"odd"), bomb, "text", 5):
        execute(record.path, "UPDATE channel SET channels = ? WHERE frame = 2", blob)
        with Run(record.path) as run:
            with pytest.raises(RecordError, match="is damaged: "):
                run.channels(gamma, 5)
            assert run.channels(gamma, 4) is not None


def test_reading_leaves_the_file_alone(finished: Path) -> None:
    before, when = finished.read_bytes(), finished.stat().st_mtime_ns
    everything(finished)
    assert (finished.read_bytes(), finished.stat().st_mtime_ns) == (before, when)
    assert [p.name for p in finished.parent.iterdir()] == [finished.name]


# How a run stands.


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    ("status", "pid", "host", "expected"),
    [
        ("running", os.getpid, platform.node(), "running"),
        ("running", os.getppid, platform.node(), "running"),
        ("running", dead_process, platform.node(), "killed"),
        ("running", dead_process, "another machine", "running"),  # nobody here can know
        ("finished", dead_process, platform.node(), "finished"),
        ("interrupted", dead_process, platform.node(), "interrupted"),
        ("failed", dead_process, platform.node(), "failed"),
        ("running", lambda: 0, platform.node(), "killed"),
        ("running", lambda: -1, platform.node(), "killed"),
    ],
)
def test_status(
    finished: Path, status: str, pid: Callable[[], int], host: str, expected: str
) -> None:
    for key, value in (("status", status), ("pid", pid()), ("host", host)):
        execute(finished, "UPDATE meta SET value = ? WHERE key = ?", json.dumps(value), key)
    with Run(finished) as run:
        assert run.status() == expected


def test_status_is_asked_anew(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    with Run(record.path) as run:
        assert run.status() == "running"
        record.close("interrupted")
        assert run.status() == "interrupted"


# What is not a run.


def refused(path: Path, said: str) -> None:
    with pytest.raises(RecordError) as caught:
        Run(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert said in message
    assert "\n" not in message


def test_no_such_file(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.sqlite", "does not exist; give the .sqlite file of a run")
    assert list(tmp_path.iterdir()) == []  # asking did not create it


def test_a_folder(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder; give the .sqlite file of a run")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "run.sqlite").touch()
    refused(tmp_path / "run.sqlite", "is empty; the run was stopped before it began")


@pytest.mark.parametrize("content", [b"a", b"name,age\nada,36\n" * 99, os.urandom(4096)])
def test_a_file_that_is_not_sqlite(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.sqlite"
    path.write_bytes(content)
    refused(path, "is not a run recorded by gammabeta")
    assert path.read_bytes() == content


def test_somebody_elses_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    execute(path, "CREATE TABLE meta(key TEXT, value TEXT)")
    refused(path, "is an SQLite file, but no run recorded by gammabeta")


def test_a_newer_format(finished: Path) -> None:
    execute(finished, f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    assert FORMAT_VERSION == 3
    refused(finished, "has format 4, newer than the 3 this gammabeta reads; upgrade gammabeta")


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DROP TABLE meta", "cannot be read: no such table: meta"),
        ("UPDATE meta SET value = 'no JSON'", "is damaged: its description cannot be read"),
        ("UPDATE meta SET value = x'ff'", "is damaged: its description cannot be read"),
    ],
)
def test_a_run_whose_description_is_damaged(finished: Path, sql: str, said: str) -> None:
    execute(finished, sql)
    refused(finished, said)


def put(path: Path, frame: int, column: str, blob: object) -> None:
    """Change a blob of a frame, and the checksum with it, as somebody who means harm would."""
    execute(path, f"UPDATE frame SET {column} = ? WHERE id = ?", blob, frame)
    connection = sqlite3.connect(path)
    sql = "SELECT step, signals, histograms FROM frame WHERE id = ?"
    ((step, *blobs),) = connection.execute(sql, (frame,)).fetchall()
    connection.close()
    data = b"".join(each for each in blobs if isinstance(each, bytes))
    crc = zlib.crc32(str(step).encode() + data)
    execute(path, "UPDATE frame SET crc = ? WHERE id = ?", crc, frame)


@pytest.mark.parametrize("column", ["signals", "histograms"])
def test_numbers_that_were_changed(finished: Path, column: str) -> None:
    """One bit of a blob: what was measured then is not shown as if it were true."""
    connection = sqlite3.connect(finished)
    ((blob,),) = connection.execute(f"SELECT {column} FROM frame WHERE id = 3").fetchall()
    connection.close()
    changed = bytearray(blob)
    changed[len(blob) // 2] ^= 1
    execute(finished, f"UPDATE frame SET {column} = ? WHERE id = 3", bytes(changed))
    with Run(finished) as run:
        frames = run.frames()
        assert [next(frames).id, next(frames).id] == [1, 2]
        with pytest.raises(RecordError) as caught:
            next(frames)
    assert str(caught.value) == f"{finished} is damaged: the numbers of step 2 were changed"


def test_frames_that_were_exchanged(finished: Path) -> None:
    """The checksum is of the step, too: one frame's numbers cannot stand for another's."""
    connection = sqlite3.connect(finished)
    columns = "signals, histograms, crc"
    (other,) = connection.execute(f"SELECT {columns} FROM frame WHERE id = 5").fetchall()
    connection.close()
    execute(finished, "UPDATE frame SET signals = ?, histograms = ?, crc = ? WHERE id = 1", *other)
    with Run(finished) as run, pytest.raises(RecordError, match="of step 1 were changed"):
        next(run.frames())


@pytest.mark.parametrize("blob", [b"", b"no zlib", b"f" + zlib.compress(b"odd"), b"fno zlib"])
def test_signals_that_are_damaged(finished: Path, blob: bytes) -> None:
    put(finished, 3, "signals", blob)
    with Run(finished) as run:
        frames = run.frames()
        assert [next(frames).id, next(frames).id] == [1, 2]
        with pytest.raises(RecordError, match="is damaged: step 2: a frame"):
            next(frames)


@pytest.mark.parametrize("blob", [b"", b"no zlib", b"h" + zlib.compress(b"odd"), b"hno zlib"])
def test_histograms_that_are_damaged(finished: Path, blob: bytes) -> None:
    """They are unpacked when they are asked for; the numbers can still be had."""
    put(finished, 3, "histograms", blob)
    with Run(finished) as run:
        frame = list(run.frames())[2]
        assert frame.values["count"].tolist() == [200] * 8
        for _ in range(2):
            with pytest.raises(RecordError, match="is damaged: step 2: a frame"):
                _ = frame.histograms
            with pytest.raises(RecordError, match="is damaged: step 2: a frame"):
                _ = frame.signals


def test_a_locked_run(finished: Path) -> None:
    other = sqlite3.connect(finished, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        refused(finished, "is locked by another process; close that one first")
    finally:
        other.close()
    assert len(everything(finished)[-1]) == 8


def test_a_run_being_written_can_be_read_under_its_writers_lock(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 2)
        record.flush()
        other = sqlite3.connect(record.path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")  # in WAL mode a writer shuts no reader out
        assert len(everything(record.path)[-1]) == 4
        other.close()


# Cut short and damaged: a clean error, or what is still there; never another exception.


def readable_or_refused(path: Path, whole: tuple[Any, ...]) -> int | None:
    """How many frames can be read, each as it was written; None if the file is refused."""
    try:
        frames = everything(path)[-1]
    except RecordError:
        return None
    for frame, original in zip(frames, whole[-1], strict=False):
        assert (frame.id, frame.arm, frame.step) == (original.id, original.arm, original.step)
        assert list(frame.signals) == list(original.signals)
        assert all(same(frame.signals[p], original.signals[p]) for p in frame.signals)
    assert len(frames) <= len(whole[-1])
    return len(frames)


def test_cut_short(finished: Path, tmp_path: Path) -> None:
    whole, content = everything(finished), finished.read_bytes()
    size = len(content)
    around_pages = {page + d for page in range(0, size, 4096) for d in (-1, 0, 1)}
    lengths = {0, 1, 15, 16, 17, 99, 100, 101, size // 2, size - 1, *around_pages}
    path = tmp_path / "cut.sqlite"
    for length in sorted(n for n in lengths if 0 <= n < size):
        path.write_bytes(content[:length])
        assert readable_or_refused(path, whole) in (None, 0, 8), length
    path.write_bytes(content)
    assert readable_or_refused(path, whole) == 8


def test_a_log_cut_short_loses_its_last_frames_only(tmp_path: Path) -> None:
    """What a power cut leaves: the file, and a write-ahead log that ends anywhere."""
    with Record(tmp_path / "run") as record:
        fill(record, 4)
        record.flush()
        for suffix in ("", "-wal"):
            shutil.copy(f"{record.path}{suffix}", f"{tmp_path}/kept.sqlite{suffix}")
    whole = everything(record.path)
    log = (tmp_path / "kept.sqlite-wal").read_bytes()
    random.seed(0)
    lengths = sorted([0, 1, 31, 32, 33, len(log), *random.sample(range(len(log)), 60)])
    counts = []
    for length in lengths:
        for old in tmp_path.glob("cut*"):
            old.unlink()
        shutil.copy(tmp_path / "kept.sqlite", tmp_path / "cut.sqlite")
        (tmp_path / "cut.sqlite-wal").write_bytes(log[:length])
        counts.append(readable_or_refused(tmp_path / "cut.sqlite", whole) or 0)
    assert counts == sorted(counts)  # the longer the log, the more frames
    assert counts[-1] == 8
    assert set(counts) == set(range(9))  # and every number of frames was met


def test_damaged_anywhere(finished: Path, tmp_path: Path) -> None:
    """Bytes overwritten at random: the error is always ours, and no number is a wrong one."""
    content = finished.read_bytes()
    originals: dict[int, list[Any]] = {}
    for frame in everything(finished)[-1]:
        originals.setdefault(frame.step, []).append(frame.signals)
    rng = random.Random(0)
    outcomes = []
    path = tmp_path / "damaged.sqlite"
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.choice([1, 8, 200])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            frames = everything(path)[-1]
            for frame in frames:
                assert any(
                    list(frame.signals) == list(original)
                    and all(same(frame.signals[p], original[p]) for p in original)
                    for original in originals[frame.step]
                )
            outcomes.append("read")
        except RecordError:
            outcomes.append("refused")
    assert {"read", "refused"} <= set(outcomes)


@pytest.mark.parametrize("kind", ["fifo", "socket", "device"])
def test_what_is_no_regular_file_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with socket.socket(socket.AF_UNIX) as bound:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            bound.bind(str(path))
        else:
            path.symlink_to("/dev/zero")
        refused(path, "is not a regular file; give the .sqlite file of a run")


@pytest.mark.parametrize("path", [5, None, b"run.sqlite"])
def test_a_path_that_is_none(path: object) -> None:
    with pytest.raises(TypeError, match=r"^path is a .*; give the path of a file$"):
        Run(path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE arm SET name = x'78' WHERE id = 1",
        "UPDATE probe SET stage = x'78' WHERE id = 1",
        "UPDATE scalar SET value = x'78'",
        "UPDATE scalar SET value = 'x'",
        "UPDATE frame SET step = x'78' WHERE id = 1",
        "UPDATE frame SET step = 9e999 WHERE id = 1",
        "UPDATE frame SET seconds = 'x' WHERE id = 1",
        "UPDATE frame SET probes = 'x' WHERE id = 1",
        "UPDATE frame SET probes = -1 WHERE id = 1",
        "UPDATE frame SET probes = 9000000000000000000 WHERE id = 1",
        "UPDATE frame SET signals = 'x' WHERE id = 1",
        "UPDATE frame SET histograms = 5 WHERE id = 1",
        "UPDATE frame SET crc = x'78' WHERE id = 1",
        "UPDATE frame SET crc = crc + 1 WHERE id = 8",
        "UPDATE frame SET step = step + 100 WHERE id = 8",
        "UPDATE mark SET text = x'78'",
        "UPDATE mark SET step = 'x'",
        "UPDATE meta SET value = '5' WHERE key = 'settings'",
        f"UPDATE meta SET value = '{'[' * 100_000}' WHERE key = 'settings'",
    ],
    ids=lambda damage: damage[:60],
)
def test_a_value_of_the_wrong_type(damage: str, finished: Path, tmp_path: Path) -> None:
    execute(finished, damage)
    with pytest.raises(RecordError, match="is damaged: "), Run(finished) as run:
        export(run, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()


def test_a_process_that_is_no_number(finished: Path) -> None:
    execute(finished, "UPDATE meta SET value = '\"running\"' WHERE key = 'status'")
    execute(finished, "UPDATE meta SET value = '\"x\"' WHERE key = 'pid'")
    with Run(finished) as run:
        assert run.status() == "killed"
