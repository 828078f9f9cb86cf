"""Runs as they grow, several of them as one, and which files are meant."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.signal import Record, RecordError, Run
from gammabeta.view import reading, runs
from gammabeta.view.runs import Runs, located
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.view.shown import column, told


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the files at each call."""
    monkeypatch.setattr(runs, "_FRESH_SECONDS", 0.0)


def recorded(path: Path, steps: int = 3, arms: tuple[str, ...] = ("model",), **more: Any) -> Path:
    with Record(path, **more) as record:
        fill(record, steps, arms)
    return record.path


# One run that grows.


def test_a_run_is_read_as_it_is_recorded(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        watched = Runs([record.path])
        assert watched.now().status == "running"
        for step in range(1, 9):
            arm = record.arm(f"arm {step // 3}")
            probe = record.probe(arm, step, "fc", "z", "relu")
            record.write(arm, step, {"loss": step}, {probe: summary(step)})
            record.write(arm, 100 + step, {"loss": step / 8})  # a step that is no frame
            record.mark(arm, step, f"mark {step}")
            if step in (4, 5):
                continue
            record.flush()
            shown = watched.now()
            assert shown.size == shown.index.size
            assert _counts(shown) == (step, 2 * step, step, step)
            assert shown.index.step == list(range(1, step + 1))
            assert max(shown.index.arm) < len(shown.index.arms)
    shown = watched.now()
    assert shown.status == "finished"
    data = b"".join(shown.store.column("mean", 0, 8, 8))
    expected = column(record.path, "mean").astype("f4")
    np.testing.assert_array_equal(np.frombuffer(data, "<f4").reshape(8, 8), expected)


def _counts(shown: Any) -> tuple[int, ...]:
    return shown.size.frames, shown.size.scalars, shown.size.marks, shown.size.probes


def test_only_what_is_new_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []
    for name in ("index", "scalars", "marks"):
        method = getattr(Run, name)

        def noted(
            run: Run, after: int = 0, most: int = -1, name: str = name, m: Any = method
        ) -> Any:
            asked.append((name, after))
            return m(run, after) if name == "marks" else m(run, after, most)

        monkeypatch.setattr(Run, name, noted)
    with Record(tmp_path / "run") as record:
        watched = Runs([record.path])
        fill(record, 3, ("model",))
        record.flush()
        watched.now()
        asked.clear()
        fill_more = record.arm("model")
        record.write(fill_more, 10, {"loss": 1.0}, {0: summary(10)})
        record.flush()
        assert watched.now().size.frames == 4
    assert asked == [("scalars", 2), ("scalars", 3), ("index", 2), ("marks", 0)]


def test_a_file_that_does_not_change_is_not_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recorded(tmp_path / "run")
    os.utime(path, (1, 1))  # long ago: files that changed just now may do so again, unseen
    watched = Runs([path])
    first = watched.now()
    monkeypatch.setattr(reading, "Run", None)
    assert watched.now().size == first.size


def test_a_reader_does_not_keep_the_record_from_becoming_one_file(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 2)
        record.flush()
        watched = Runs([record.path])
        watched.now()
    assert [each.name for each in tmp_path.iterdir()] == ["run.sqlite"]
    assert watched.now().status == "finished"


@pytest.mark.parametrize("way", ["overwrite", "resume"])
def test_a_run_that_begins_anew_is_another(tmp_path: Path, way: str) -> None:
    path = recorded(tmp_path / "run", 5)
    watched = Runs([path])
    before = watched.now()
    options: Any = {"overwrite": True} if way == "overwrite" else {"resume": 2}
    with Record(path, **options) as record:
        with pytest.raises(RecordError, match="was begun anew or continued; reload the page"):
            watched.now()
        after = watched.now()
        assert after.index.epoch != before.index.epoch
        assert after.size.frames == (0 if way == "overwrite" else 2)
        record.flush()


def test_the_newest_frame_of_several_ranks_waits_for_all_of_them(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        watched = Runs([record.path])
        connection = sqlite3.connect(record.path)
        with connection:
            rows = [("ranks", '"all"'), ("rank", "0")]
            connection.executemany("INSERT INTO meta VALUES(?, ?)", rows)
        connection.close()
        for step in (1, 2, 3):
            record.write(record.arm("a"), step, {"loss": 1.0}, {})
            record.flush()
            assert watched.now().size.frames == step - 1
            assert watched.now().size.scalars == step
    assert watched.now().size.frames == 3


@pytest.mark.parametrize("settled", [True, False])
def test_a_run_whose_process_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settled: bool
) -> None:
    path = recorded(tmp_path / "run", 2)
    connection = sqlite3.connect(path)
    with connection:
        rows = [("status", '"running"'), ("ranks", '"all"'), ("rank", "0")]
        connection.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", rows)
    connection.close()
    if settled:
        os.utime(path, (1, 1))
    alive = [True]
    monkeypatch.setattr("gammabeta.signal.run._alive", lambda pid: alive[0])
    watched = Runs([path])
    assert (watched.now().status, watched.now().size.frames) == ("running", 1)
    alive[0] = False
    assert (watched.now().status, watched.now().size.frames) == ("killed", 2)


# Several runs.


def test_two_runs_are_one_index(tmp_path: Path) -> None:
    one = recorded(tmp_path / "one", 3, ("model",), settings={"lr": 1})
    two = recorded(tmp_path / "two", 2, ("without", "with"), settings={"lr": 2})
    data = told(one, two)
    assert data["title"] == "one · two"
    assert [(r["name"], r["settings"]) for r in data["runs"]] == [
        ("one", {"lr": 1}),
        ("two", {"lr": 2}),
    ]
    assert data["settings"] == {}
    assert data["arms"] == [
        {"id": 0, "name": "one", "run": 0},
        {"id": 1, "name": "two · without", "run": 1},
        {"id": 2, "name": "two · with", "run": 1},
    ]
    assert [p["id"] for p in data["probes"]] == list(range(8 + 16))
    assert [p["arm"] for p in data["probes"]] == [0] * 8 + [1] * 8 + [2] * 8
    frames = list(zip(data["frames"]["arm"], data["frames"]["step"], strict=True))
    assert sorted(frames) == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (2, 1), (2, 2)]
    for arm in range(3):
        assert [s for a, s in frames if a == arm] == sorted(s for a, s in frames if a == arm)
    losses = {s["arm"]: s["values"] for s in data["scalars"] if s["name"] == "loss"}
    assert losses == {0: [1, 0.5, 0.3333333], 1: [1, 0.5], 2: [1, 0.5]}


def test_the_columns_of_two_runs(tmp_path: Path) -> None:
    paths = [recorded(tmp_path / name, steps) for name, steps in (("one", 3), ("two", 4))]
    shown = Runs(paths).now()
    data = b"".join(shown.store.column("mean", 0, 7, 16))
    table = np.frombuffer(data, "<f4").reshape(7, 16)
    runs_of_frames = np.array([run for run, _ in shown.index.where])
    for run, path in enumerate(paths):
        rows = table[runs_of_frames == run]
        own = slice(8 * run, 8 * run + 8)
        np.testing.assert_array_equal(rows[:, own], column(path, "mean").astype("f4"))
        assert np.isnan(np.delete(rows, np.r_[own], axis=1)).all()


def test_frames_are_in_the_order_of_recording(tmp_path: Path) -> None:
    """Two runs of the same minutes: their frames alternate."""
    paths = []
    for name, offset in (("one", 0.0), ("two", 0.5)):
        with Record(tmp_path / name) as record:
            arm = record.arm("model")
            for step in range(1, 5):
                record.write(arm, step, {}, {}, seconds=100.0 * (step + offset))
        paths.append(record.path)
    assert told(*paths)["frames"]["arm"] == [0, 1] * 4


def test_frames_keep_their_numbers_as_runs_grow(tmp_path: Path) -> None:
    with Record(tmp_path / "one") as one, Record(tmp_path / "two") as two:
        watched = Runs([one.path, two.path])
        known: list[tuple[int, int]] = []
        for step in range(1, 6):
            for record in (one, two) if step % 2 else (two,):
                record.write(record.arm("model"), step, {"loss": step}, {}, seconds=step)
                record.flush()
            index = watched.now().index
            frames = list(zip(index.arm, index.step, strict=True))
            assert frames[: len(known)] == known
            known = frames
        assert len(known) == 8
        assert watched.now().status == "running"


@pytest.mark.parametrize(
    ("statuses", "together"),
    [
        (("finished", "finished"), "finished"),
        (("finished", "failed"), "failed"),
        (("interrupted", "finished"), "interrupted"),
    ],
)
def test_the_status_of_two(tmp_path: Path, statuses: tuple[str, str], together: str) -> None:
    paths = []
    for i, status in enumerate(statuses):
        record = Record(tmp_path / f"run {i}")
        record.close(status)
        paths.append(record.path)
    data = told(*paths)
    assert data["status"] == together
    assert [run["status"] for run in data["runs"]] == list(statuses)


def test_names_of_runs_are_unique(tmp_path: Path) -> None:
    paths = [recorded(tmp_path / folder / "run", 1) for folder in ("a", "b")]
    paths.append(recorded(tmp_path / "other", 1))
    data = told(*paths)
    assert [run["name"] for run in data["runs"]] == ["a/run", "b/run", f"{tmp_path.name}/other"]


def test_an_old_and_a_new_file(tmp_path: Path) -> None:
    old = version_1.write(tmp_path / "old.sqlite")
    data = told(old, recorded(tmp_path / "new", 1))
    assert [arm["name"] for arm in data["arms"]] == ["old", "new"]
    assert data["created"] == version_1.META["created"]


def test_another_axis_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = recorded(tmp_path / "one", 1)
    monkeypatch.setattr("gammabeta.signal.axis.LIMIT", 50.0)
    two = recorded(tmp_path / "two", 1)
    with pytest.raises(RecordError, match=r"two\.sqlite was recorded with another axis; show it a"):
        told(one, two)


def test_after_an_error_all_is_read_again(tmp_path: Path) -> None:
    one, two = recorded(tmp_path / "one", 2), recorded(tmp_path / "two", 3)
    content = two.read_bytes()
    watched = Runs([one, two])
    two.write_bytes(b"x" * 5000)
    for _ in range(2):
        with pytest.raises(RecordError, match=r"two\.sqlite is not a run"):
            watched.now()
    two.write_bytes(content)
    assert watched.now().size.frames == 5


# Which files.


def test_paths_with_and_without_suffix_and_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "runs/b", "runs/c", "v1.5", "runs/b.rank1", "runs/c.rank12"):
        recorded(tmp_path / name, 1)
    (tmp_path / "runs" / "notes.txt").write_text("no run")
    (tmp_path / "runs" / "deeper.sqlite").mkdir()
    monkeypatch.chdir(tmp_path)
    given = [Path("a"), Path("runs"), Path("v1.5")]
    names = ["a.sqlite", "runs/b.sqlite", "runs/c.sqlite", "v1.5.sqlite"]
    assert [str(path) for path in located(given)] == names
    assert located([Path("a.sqlite")]) == (Path("a.sqlite"),)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert located([Path("~/a")]) == (tmp_path / "a.sqlite",)


def test_a_folder_without_runs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        RecordError, match=r"empty is a folder without runs \(\.sqlite files\); giv"
    ):
        located([tmp_path / "empty"])


@pytest.mark.parametrize(
    "again", ["run.sqlite", "run", "./run", "sub/../run.sqlite", "link.sqlite", "."]
)
def test_the_same_run_twice(tmp_path: Path, again: str) -> None:
    recorded(tmp_path / "run", 1)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.sqlite").symlink_to(tmp_path / "run.sqlite")
    with pytest.raises(RecordError, match="the same run is given twice; give each run once"):
        located([tmp_path / "run.sqlite", tmp_path / again])


def test_a_path_that_is_not_there_is_named_as_given(tmp_path: Path) -> None:
    (path,) = located([tmp_path / "nothing"])
    with pytest.raises(
        RecordError, match=r"nothing does not exist; give the \.sqlite file of a run"
    ):
        Runs([path]).now()
