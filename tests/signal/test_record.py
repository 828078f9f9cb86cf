"""Writing a record: what is refused, what survives, and that training is never held up."""

from __future__ import annotations

import copy
import os
import pickle
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.signal import Record, RecordError, Run
from gammabeta.signal.columns import Columns
from gammabeta.signal.paths import RecordExistsError, record_path
from gammabeta.signal.record import Measured
from gammabeta.signal.tables import APPLICATION_ID, FORMAT_VERSION
from tests.signal.recorded import everything, fill, fill_the_disk, summary


def pickled(record: Record) -> Record:
    copied: Record = pickle.loads(pickle.dumps(record))
    return copied


def ends(what: Callable[[], Any], seconds: float = 20) -> None:
    """``what`` returns in time; a hang is a failure of one test, not of the whole suite."""
    thread = threading.Thread(target=what, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"


@pytest.mark.parametrize(
    ("given", "file"),
    [
        ("first", "first.sqlite"),
        ("runs/first", "runs/first.sqlite"),
        ("first.sqlite", "first.sqlite"),
        ("first.db", "first.db.sqlite"),
        ("runs/lr0.1", "runs/lr0.1.sqlite"),
        (Path("runs.d/first"), "runs.d/first.sqlite"),
    ],
    ids=str,
)
def test_where_it_goes(given: str | Path, file: str, tmp_path: Path) -> None:
    assert record_path(given) == Path(file)
    with Record(tmp_path / given) as record:
        assert record.path == tmp_path / file
    assert (tmp_path / file).is_file()
    with Run(tmp_path / file) as run:
        assert run.status() == "finished"


def test_the_file_says_whose_it_is(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        pass
    with sqlite3.connect(record.path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT_VERSION,)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    assert APPLICATION_ID.to_bytes(4, "big") == b"gamb"


@pytest.mark.parametrize("content", [b"", b"my thesis", None], ids=["empty", "text", "a run"])
def test_a_file_that_exists_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.sqlite"
    if content is None:
        with Record(path) as record:
            fill(record, 2)
    else:
        path.write_bytes(content)
    before, when = path.read_bytes(), path.stat().st_mtime_ns
    with pytest.raises(RecordError) as caught:
        Record(tmp_path / "run", title="another")
    assert str(caught.value) == (
        f"{path} exists; pass resume=True to continue it, overwrite=True to replace it, or another "
        "path (nothing was overwritten)"
    )
    assert (path.read_bytes(), path.stat().st_mtime_ns) == (before, when)
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


def test_of_many_started_at_once_one_gets_the_file(tmp_path: Path) -> None:
    outcomes: list[object] = []
    start = threading.Barrier(8)

    def begin() -> None:
        start.wait()
        try:
            outcomes.append(Record(tmp_path / "run"))
        except RecordError as e:
            outcomes.append(e)

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (record,) = [o for o in outcomes if isinstance(o, Record)]
    assert sum(isinstance(o, RecordError) for o in outcomes) == 7
    fill(record, 1)
    record.close()
    assert len(everything(record.path)[-1]) == 2


@pytest.mark.parametrize("below", ["run", "folder/run"])
def test_a_file_where_a_folder_is_needed(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(RecordError, match="cannot be created"):
        Record(tmp_path / "file" / below)
    assert (tmp_path / "file").read_text() == "a file"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RecordError, match="cannot be created: Permission denied"):
            Record(tmp_path / "run")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_no_file_name(path: str) -> None:
    with pytest.raises(RecordError, match="names no file"):
        Record(path)


def test_settings_must_be_json(tmp_path: Path) -> None:
    def begin() -> None:
        with pytest.raises(TypeError, match=r"settings .* JSON"):
            Record(tmp_path / "run", settings={"model": object()})

    ends(begin)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch, pages=3)
    with pytest.raises(RecordError, match=r"cannot be written: database or disk is full"):
        Record(tmp_path / "run")
    # What could not be begun is not left lying in the way of the next attempt.
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch, pages=60)
    record = Record(tmp_path / "run")
    ends(lambda: fill(record, 400))  # many times more than the queue holds: nobody may block
    ends(record.flush)
    assert "full" in str(record.error)
    ends(record.close)
    monkeypatch.undo()
    _, _, _, arms, _, _, frames = everything(record.path)
    assert list(arms.values()) == ["without", "with"]
    steps = [frame.step for frame in frames if frame.arm == 0]
    assert steps == list(range(1, len(steps) + 1))
    assert 2 <= len(steps) < 400
    assert all(len(frame.signals) == 8 for frame in frames)


@pytest.mark.parametrize("nothing_to_encode", ["\ud800", "half\udfffpair"])
def test_a_name_sqlite_cannot_hold_ends_the_recording_not_the_training(
    tmp_path: Path, nothing_to_encode: str
) -> None:
    record = Record(tmp_path / "run")
    fill(record, 1)
    record.arm(nothing_to_encode)
    ends(lambda: fill(record, 200))
    ends(record.flush)
    assert isinstance(record.error, UnicodeEncodeError)
    ends(record.close)
    assert len(everything(record.path)[-1]) == 2


def test_ids_are_given_once(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        assert [record.arm("a"), record.arm("b"), record.arm("a")] == [0, 1, 0]
        first = record.probe(0, 1, "fc", "z", "relu")
        assert record.probe(0, 1, "fc", "z", "relu") == first
        others = {record.probe(a, n, "fc", s, None) for a, n, s in [(1, 1, "z"), (0, 2, "z")]}
        assert len({first, *others, record.probe(0, 1, "fc", "affine", None)}) == 4


def test_a_step_recorded_twice_is_an_error_that_keeps_the_first(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    arm = record.arm("a")
    record.write(arm, 1, {"loss": 1.0})
    record.write(arm, 1, {"loss": 2.0})
    record.flush()
    assert isinstance(record.error, sqlite3.IntegrityError)
    record.close()
    with Run(record.path) as run:
        assert [s.value for s in run.scalars()] == [1.0]


def test_a_frame_is_all_or_nothing(tmp_path: Path) -> None:
    """The last row of the second frame cannot be written: of that frame nothing may stay."""
    record = Record(tmp_path / "run")
    arm = record.arm("a")
    probes = [record.probe(arm, 1, "fc", stage, None) for stage in ("gamma", "beta")]

    def measured(broken: bool) -> Measured:
        channels: dict[Any, Any] = {probes[0]: np.ones(3)}
        channels[object() if broken else probes[1]] = np.ones(3)
        return Measured(Columns.of({p: summary(p) for p in probes}), channels, {"extra": 1.0})

    record.write(arm, 1, {"loss": 1.0}, lambda: measured(False))
    record.write(arm, 2, {"loss": 2.0}, lambda: measured(True))
    record.flush()
    assert record.error is not None
    record.close()
    with Run(record.path) as run:
        (frame,) = run.frames()
        assert (frame.step, sorted(frame.signals)) == (1, probes)
        assert [s.step for s in run.scalars()] == [1, 1]
        assert run.channels(probes[0], 9) is not None


def test_a_frame_that_cannot_be_computed_is_lost_and_nothing_else(tmp_path: Path) -> None:
    """Its scalars are recorded, and the frames after it; `lost` says why."""
    record = Record(tmp_path / "run")
    arm = record.arm("a")
    probe = record.probe(arm, 1, "fc", "z", None)
    record.write(arm, 1, {"loss": 1.0}, {probe: summary(1)})
    record.flush()
    assert record.lost is None
    record.write(arm, 2, {"loss": 2.0}, {probe: summary(2, count=object())})

    def fails() -> Measured:
        raise ZeroDivisionError("no numbers")

    record.flush()
    assert isinstance(record.lost, TypeError)
    record.write(arm, 3, {"loss": 3.0}, fails)
    record.write(arm, 4, {"loss": 4.0}, {probe: summary(4)})
    record.flush()
    assert isinstance(record.lost, ZeroDivisionError)
    assert record.error is None
    assert record.backlog == 0
    record.close()
    with Run(record.path) as run:
        assert [frame.step for frame in run.frames()] == [1, 4]
        assert [s.value for s in run.scalars()] == [1.0, 2.0, 3.0, 4.0]


def test_what_is_to_be_computed_is_computed_by_the_thread_that_writes(tmp_path: Path) -> None:
    threads: list[str] = []
    gate = threading.Event()

    def scalars() -> dict[str, float]:
        threads.append(threading.current_thread().name)
        return {"loss": 0.5}

    def signals() -> Measured:
        gate.wait(20)
        threads.append(threading.current_thread().name)
        return Measured(Columns.of({0: summary(1)}), {}, {"more": 2.0})

    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        record.probe(arm, 1, "fc", "z", None)
        record.write(arm, 1, scalars, signals)
        record.write(arm, 2, scalars)
        assert record.backlog == 1  # a step without signals does not count
        before = record.busy
        gate.set()
        record.flush()
        assert record.backlog == 0
        assert record.busy > before
    assert threads == ["gammabeta record"] * 3
    with Run(record.path) as run:
        assert [(s.step, s.name, s.value) for s in run.scalars()] == [
            (1, "loss", 0.5),
            (1, "more", 2.0),
            (2, "loss", 0.5),
        ]


def test_rows_are_numbered_in_the_order_in_which_they_are_met(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        a, b = record.arm("a"), record.arm("b")
        assert [record.layer(a, name) for name in ("x", "y", "x", "z")] == [1, 2, 1, 3]
        assert [record.layer(b, name) for name in ("z", "x")] == [1, 2]  # of each arm


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, pickled], ids=["copy", "deepcopy", "pickle"]
)
def test_a_copy_of_a_record_is_inert_and_says_so(
    tmp_path: Path, duplicate: Callable[[Record], Record]
) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 1)
        twin = duplicate(record)
        assert repr(twin) == f"<a copy of the record {record.path}: it records nothing>"
        fill(twin, 5)
        twin.mark(0, 1, "nothing")
        twin.flush()
        assert (twin.error, twin.lost, twin.path) == (None, None, record.path)
        twin.close("failed")
        fill_more = record.arm("with")
        record.write(fill_more, 9, {}, {})
    with Run(record.path) as run:
        assert run.status() == "finished"
        assert [frame.step for frame in run.frames()] == [1, 1, 9]
        assert run.marks() == []
    with twin as again:
        assert again is twin


def test_what_is_flushed_can_be_read_by_others(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        for step in range(1, 6):
            arm = record.arm("a")
            record.write(arm, step, {"loss": step / 2}, {})
            record.flush()
            with Run(record.path) as run:
                assert [f.step for f in run.frames()] == list(range(1, step + 1))
                assert [s.value for s in run.scalars()] == [s / 2 for s in range(1, step + 1)]


def test_a_short_lock_is_waited_for(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        other = sqlite3.connect(record.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        fill(record, 1)
        time.sleep(0.1)  # the writer meets the lock meanwhile
        other.execute("ROLLBACK")
        other.close()
        record.flush()
        assert record.error is None
    assert len(everything(record.path)[-1]) == 2


def test_a_closed_record_is_one_plain_file(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 2)
        record.flush()
        assert (tmp_path / "run.sqlite-wal").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(record.path.read_bytes())
    assert len(everything(copy)[-1]) == 4


def test_a_reader_does_not_hold_up_the_end(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    fill(record, 2)
    record.flush()
    with Run(record.path) as run:
        began = time.monotonic()
        ends(record.close)
        assert time.monotonic() - began < 2  # no waiting for the reader to go away
        assert run.status() == "finished"
        assert len(list(run.frames())) == 4


def test_closing(tmp_path: Path) -> None:
    record = Record(tmp_path / "run")
    record.close("interrupted")
    record.close("finished")  # the first word stands
    ends(record.flush)
    for late in (
        lambda: record.arm("new"),
        lambda: record.write(0, 1, {"loss": 1.0}),
        lambda: record.write(0, 1, {"loss": 1.0}, {}),
        lambda: record.probe(0, 1, "fc", "z", None),
        lambda: record.mark(0, 1, "late"),
    ):
        with pytest.raises(RecordError, match="is closed; nothing more can be recorded in it"):
            late()
    with Run(record.path) as run:
        assert run.status() == "interrupted"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "finished"),
        (KeyboardInterrupt, "interrupted"),
        (RuntimeError, "failed"),
        (SystemExit, "failed"),
    ],
    ids=str,
)
def test_how_it_ended(tmp_path: Path, error: type[BaseException] | None, status: str) -> None:
    def work() -> None:
        with Record(tmp_path / "run") as record:
            fill(record, 3)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    path = tmp_path / "run.sqlite"
    with Run(path) as run:
        assert run.status() == status
        assert len(list(run.frames())) == 6
    assert [p.name for p in tmp_path.iterdir()] == ["run.sqlite"]


def test_several_threads_may_record(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        threads = [
            threading.Thread(target=fill, args=(record, 10, (f"arm {i}",))) for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        record.flush()
        assert record.error is None
    with Run(record.path) as run:
        frames = list(run.frames())
        assert sorted(run.arms().values()) == [f"arm {i}" for i in range(4)]
        assert [f.id for f in frames] == list(range(1, 41))  # ids in the order of recording
        for arm in run.arms():
            mine = [f for f in frames if f.arm == arm]
            assert [f.step for f in mine] == list(range(1, 11))
            assert all(len(f.signals) == 8 for f in mine)


def test_a_new_record_takes_nothing_from_a_wal_left_behind(tmp_path: Path) -> None:
    """A killed run leaves -wal and -shm; somebody deletes the .sqlite only and starts again."""
    record = Record(tmp_path / "run")
    fill(record, 3)
    record.flush()
    leftovers = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    record.close()
    record.path.unlink()
    for name in ("run.sqlite-wal", "run.sqlite-shm"):
        (tmp_path / name).write_bytes(leftovers[name])
    with Record(tmp_path / "run") as record:
        fill(record, 1, ("new",))
    _, _, status, arms, _, _, frames = everything(record.path)
    assert (status, arms, [f.step for f in frames]) == ("finished", {0: "new"}, [1])


def test_a_reader_that_looks_in_does_not_leave_the_record_in_pieces(tmp_path: Path) -> None:
    """A live page reads while the record is closed; the record must still end as one plain file."""
    record = Record(tmp_path / "run")
    record.arm("one")
    record.flush()
    reader = sqlite3.connect(record.path, check_same_thread=False)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM arm").fetchone()  # holds the WAL open
    threading.Timer(0.3, reader.close).start()
    record.close()
    assert [path.name for path in tmp_path.iterdir()] == ["run.sqlite"]


@pytest.mark.parametrize("path", [5, None, b"run"])
def test_a_path_that_is_none(path: object) -> None:
    with pytest.raises(TypeError, match=r"^path is a .*; give the path of a file$"):
        Record(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["", "a\0b"])
def test_a_path_that_names_no_file(path: str) -> None:
    with pytest.raises(RecordError, match=r"^path='.*' names no file; give one"):
        Record(path)


def test_an_arm_that_is_no_text(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, pytest.raises(TypeError, match=r"^arm is a int"):
        record.arm(3)  # type: ignore[arg-type]


def test_a_file_that_exists_is_told_from_one_that_cannot_be_made(tmp_path: Path) -> None:
    Record(tmp_path / "run").close()
    with pytest.raises(RecordExistsError, match="exists; pass resume=True to continue it"):
        Record(tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(RecordError, match="a folder on its way is a file") as caught:
        Record(tmp_path / "file" / "run")
    assert not isinstance(caught.value, RecordExistsError)
