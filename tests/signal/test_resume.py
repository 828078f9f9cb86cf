"""A second start: a record is continued, replaced, or left alone; never damaged, never shared."""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gammabeta.signal import Record, RecordError, Run, Watch, watch
from gammabeta.signal.paths import RecordExistsError
from gammabeta.signal.tables import FORMAT_VERSION
from tests.signal import version_2
from tests.signal.recorded import everything, fill


def execute(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def say(path: Path, **meta: object) -> None:
    """Change the description of a record."""
    for key, value in meta.items():
        execute(path, "UPDATE meta SET value = ? WHERE key = ?", json.dumps(value), key)


def dead_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def network(width: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(4, width), nn.BatchNorm1d(width), nn.ReLU()),
        *(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 2)),
    )


def batch(step: int) -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))


def train(signal: Watch, model: nn.Module, steps: int) -> None:
    for _ in range(steps):
        model.zero_grad()
        loss = model(batch(signal.steps)).square().mean()
        loss.backward()
        signal.step(loss=loss)


def run(path: Path, steps: int, width: int = 8, **options: Any) -> list[int]:
    """Train, and return the number of the first and the last step."""
    model = network(width)
    with watch(model, path, every=1, **options) as signal:
        first = signal.steps + 1
        train(signal, model, steps)
        return [first, signal.steps]


def steps_of(path: Path, arm: int = 0) -> list[int]:
    with Run(path.with_suffix(".sqlite")) as found:
        return [moment.step for moment in found.index() if moment.arm == arm]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


# Go on.


def test_steps_go_on(path: Path) -> None:
    assert run(path, 3, resume=True) == [1, 3]  # a job's first start: there is no file yet
    assert run(path, 2, resume=True) == [4, 5]
    assert run(path, 2, resume=True) == [6, 7]
    assert steps_of(path) == [1, 2, 3, 4, 5, 6, 7]
    with Run(path.with_suffix(".sqlite")) as found:
        assert [s.step for s in found.scalars() if s.name == "loss"] == [1, 2, 3, 4, 5, 6, 7]
        assert [moment.id for moment in found.index()] == [1, 2, 3, 4, 5, 6, 7]
        assert found.status() == "finished"
    assert [each.name for each in path.parent.iterdir()] == ["run.sqlite"]


def test_what_was_recorded_is_left_as_it_was(path: Path) -> None:
    run(path, 3, title="mine", settings={"lr": 1})
    before = everything(path.with_suffix(".sqlite"))
    run(path, 2, resume=True, title="another", settings={"lr": 2})
    after = everything(path.with_suffix(".sqlite"))
    assert after[0:2] == before[0:2] == ("mine", {"lr": 1})
    assert after[3] == before[3]  # arms
    assert after[4] == before[4]  # probes: the same rows, no new ones
    assert after[5][: len(before[5])] == before[5]
    for one, other in zip(before[-1], after[-1], strict=False):
        assert one.signals.keys() == other.signals.keys()
        assert all(
            torch.equal(one.signals[p].histogram, other.signals[p].histogram) for p in one.signals
        )


def test_rows_keep_their_numbers(path: Path) -> None:
    """Also where the model has changed: what is new gets new numbers, wherever it is."""
    layers = {"a": nn.Linear(4, 4), "norm": nn.BatchNorm1d(4), "act": nn.ReLU()}
    models = [
        nn.Sequential(OrderedDict(layers, head=nn.Linear(4, 2))),
        nn.Sequential(OrderedDict({"new": nn.Linear(4, 4), **layers}, head=nn.Linear(4, 2))),
    ]
    found = []
    for model in models:
        with watch(model, path, every=1, resume=True) as signal:
            train(signal, model, 1)
        with Run(path.with_suffix(".sqlite")) as run:
            found.append({(p.name, p.stage): (p.layer, p.id) for p in run.probes()})
    before, after = found
    assert {layer for layer, _ in before.values()} == {1, 2}
    assert {place: after[place] for place in before} == before
    new = {place: after[place][0] for place in set(after) - set(before)}
    assert new == {("new", "z"): 3, ("new", "weight"): 3}


@pytest.mark.parametrize(("keep", "first"), [(3, 4), (0, 1), (5, 6), (99, 6)])
def test_from_an_earlier_step(path: Path, keep: int, first: int) -> None:
    """As from the last checkpoint: what came after it is recorded anew."""
    with watch(model := network(), path, every=1) as signal:
        for step in range(5):
            train(signal, model, 1)
            signal.mark(f"after {step + 1}")
    assert run(path, 3, resume=keep) == [first, first + 2]
    assert steps_of(path) == list(range(1, first + 3))
    with Run(path.with_suffix(".sqlite")) as found:
        assert [s.step for s in found.scalars()] == list(range(1, first + 3))
        assert [mark.step for mark in found.marks()] == list(range(1, first))
        ids = [moment.id for moment in found.index()]
        assert ids == sorted(set(ids))
        assert len(list(found.frames())) == first + 2
        gamma = next(p.id for p in found.probes() if p.stage == "gamma")
        assert found.channels(gamma, 10**6) is not None
    connection = sqlite3.connect(path.with_suffix(".sqlite"))
    orphans = "SELECT count(*) FROM channel WHERE frame NOT IN (SELECT id FROM frame)"
    assert connection.execute(orphans).fetchone() == (0,)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


def test_a_start_is_noted(path: Path) -> None:
    run(path, 3)
    with Run(path.with_suffix(".sqlite")) as found:
        created = found.meta["created"]
    run(path, 2, resume=True)
    run(path, 1, resume=4)
    with Run(path.with_suffix(".sqlite")) as found:
        assert found.meta["created"] == created
        assert found.meta["pid"] == os.getpid()
        assert [start["after"] for start in found.meta["starts"]] == [{"0": 3}, {"0": 4}]


def test_several_arms(path: Path) -> None:
    with Record(path) as record:
        fill(record, 3)
        record.write(record.arm("without"), 12, {}, {})  # a frame without a scalar
        record.write(record.arm("with"), 9, {"loss": 1.0})  # and a scalar without a frame
    with Record(path, resume=True) as record:
        assert record.arms == ("without", "with")
        assert (record.last_step("without"), record.last_step("with")) == (12, 9)
        assert record.last_step("new") == 0
        model = network()
        with pytest.raises(ValueError, match="arm='with' already exists"):
            watch(model, record, arm="with")
        with watch(model, record, arm="new", every=1) as signal:
            train(signal, model, 1)
    assert everything(record.path)[3] == {0: "without", 1: "with", 2: "new"}
    assert steps_of(path) == [1, 2, 3, 12]
    assert (steps_of(path, 1), steps_of(path, 2)) == ([1, 2, 3], [1])


def test_after_a_kill(path: Path) -> None:
    """The file says that it is being written, by a process that is gone; its log is beside it."""
    program = (
        "import os, sys, torch\n"
        "from tests.signal.test_resume import network, train\n"
        "from gammabeta.signal import watch\n"
        "model = network()\n"
        "signal = watch(model, sys.argv[1], every=1)\n"
        "train(signal, model, 4)\n"
        "signal.record.flush()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program, str(path)], cwd=root, check=False)
    assert done.returncode == -9
    with Run(path.with_suffix(".sqlite")) as found:
        assert found.status() == "killed"
    assert run(path, 2, resume=True) == [5, 6]
    assert steps_of(path) == [1, 2, 3, 4, 5, 6]
    assert [each.name for each in path.parent.iterdir()] == ["run.sqlite"]


@pytest.mark.parametrize("content", [b"", b"half a file"])
def test_what_cannot_be_continued(path: Path, content: bytes) -> None:
    file = path.with_suffix(".sqlite")
    file.write_bytes(content)
    with pytest.raises(RecordError, match=f"^{file} is "):
        watch(network(), path, resume=True)
    assert file.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["run.sqlite"]


# Begin anew.


def test_overwrite(path: Path) -> None:
    run(path, 5, title="old")
    assert run(path, 2, overwrite=True, title="new") == [1, 2]
    assert steps_of(path) == [1, 2]
    with Run(path.with_suffix(".sqlite")) as found:
        assert found.title == "new"
        assert "starts" not in found.meta
    assert run(path.with_name("none"), 1, overwrite=True) == [1, 1]  # nothing to replace


def test_overwriting_takes_nothing_from_a_log_left_behind(path: Path) -> None:
    record = Record(path)
    fill(record, 3)
    record.flush()
    file = record.path
    say(file, pid=dead_process())
    leftovers = {p: p.read_bytes() for p in path.parent.iterdir()}
    record.close()
    for each, content in leftovers.items():
        each.write_bytes(content)
    assert Path(f"{file}-wal").exists()
    with Record(path, overwrite=True) as record:
        fill(record, 1, ("new",))
    assert everything(file)[3] == {0: "new"}
    assert [each.name for each in path.parent.iterdir()] == ["run.sqlite"]


def test_a_damaged_record_can_be_overwritten(path: Path) -> None:
    run(path, 2)
    file = path.with_suffix(".sqlite")
    content = file.read_bytes()
    for damaged in (content[:5000], content[:100] + bytes(len(content) - 100)):
        file.write_bytes(damaged)
        with pytest.raises(RecordError):
            run(path, 1, resume=True)
        assert file.read_bytes() == damaged
        assert run(path, 1, overwrite=True) == [1, 1]
        assert steps_of(path) == [1]


@pytest.mark.parametrize(
    "content", [b"my thesis", b"SQLite format 3\0" + bytes(100), b"x" * 4096], ids=len
)
def test_a_strangers_file_is_not_overwritten(path: Path, content: bytes) -> None:
    file = path.with_suffix(".sqlite")
    file.write_bytes(content)
    with pytest.raises(RecordError, match="is no run recorded by gammabeta; give another path"):
        watch(network(), path, overwrite=True)
    assert file.read_bytes() == content


def test_a_strangers_database_is_left_alone(path: Path) -> None:
    file = path.with_suffix(".sqlite")
    execute(file, "CREATE TABLE meta(key TEXT, value TEXT)")
    before = file.read_bytes()
    for options in ({"overwrite": True}, {"resume": True}, {}):
        with pytest.raises(RecordError):
            watch(network(), path, **options)  # type: ignore[arg-type]
        assert file.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == ["run.sqlite"]


# Neither, or both.


def test_neither(path: Path) -> None:
    run(path, 2)
    file = path.with_suffix(".sqlite")
    before = file.read_bytes()
    with pytest.raises(RecordExistsError) as caught:
        watch(network(), path)
    assert "resume=True" in str(caught.value)
    assert "overwrite=True" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"resume": True, "overwrite": True}, ValueError, "resume and overwrite exclude each oth"),
        ({"resume": 0, "overwrite": True}, ValueError, "resume and overwrite exclude each other"),
        ({"resume": -1}, ValueError, "resume=-1 must be True, or the last step to keep, at least"),
        ({"resume": "yes"}, TypeError, "resume='yes' must be True, False, or the last step to ke"),
        ({"resume": None}, TypeError, "resume=None must be True, False, or the last step to keep"),
        ({"resume": 2.0}, TypeError, "resume=2.0 must be True, False, or the last step to keep"),
        ({"overwrite": 1}, TypeError, "overwrite=1 must be True or False"),
        ({"overwrite": "yes"}, TypeError, "overwrite='yes' must be True or False"),
    ],
    ids=str,
)
@pytest.mark.parametrize("exists", [False, True])
def test_bad_arguments(
    path: Path, exists: bool, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    file = path.with_suffix(".sqlite")
    if exists:
        run(path, 1)
    before = file.read_bytes() if exists else None
    for begin in (lambda: watch(network(), path, **options), lambda: Record(path, **options)):
        with pytest.raises(error) as caught:
            begin()
        assert str(caught.value).startswith(said)
    assert (file.read_bytes() if file.exists() else None) == before


@pytest.mark.parametrize("options", [{"resume": True}, {"resume": 3}, {"overwrite": True}])
def test_a_shared_record_is_opened_by_itself(path: Path, options: dict[str, Any]) -> None:
    with (
        Record(path) as record,
        pytest.raises(ValueError, match=r"are for a path; give them to gammabeta\.Record"),
    ):
        watch(network(), record, **options)


# Who else has the file.


@pytest.mark.parametrize("options", [{"resume": True}, {"resume": 1}, {"overwrite": True}])
def test_a_process_that_is_writing(path: Path, options: dict[str, Any]) -> None:
    with watch(model := network(), path, every=1) as signal:
        train(signal, model, 2)
        with pytest.raises(RecordError) as caught:
            watch(network(), path, **options)
        assert str(caught.value) == (
            f"{path}.sqlite is being written by process {os.getpid()} on {platform.node()}; give "
            "another path, or end that process first"
        )
        train(signal, model, 1)
    assert steps_of(path) == [1, 2, 3]


@pytest.mark.parametrize("options", [{"resume": True}, {"overwrite": True}])
def test_another_machine(path: Path, options: dict[str, Any]) -> None:
    """Whether its process lives is not known here: a file that still changes is being written."""
    run(path, 2)
    file = path.with_suffix(".sqlite")
    say(file, status="running", host="another machine", pid=1)
    with pytest.raises(RecordError, match="is being written by process 1 on another machine"):
        watch(network(), path, **options)
    assert steps_of(path) == [1, 2]
    then = time.time() - 3600
    os.utime(file, (then, then))
    run(path, 1, **options)
    assert steps_of(path) == ([1, 2, 3] if "resume" in options else [1])


def test_a_log_that_changes_is_a_file_that_changes(path: Path) -> None:
    run(path, 1)
    file = path.with_suffix(".sqlite")
    say(file, status="running", host="another machine", pid=1)
    then = time.time() - 3600
    os.utime(file, (then, then))
    Path(f"{file}-wal").touch()
    with pytest.raises(RecordError, match="is being written by process 1 on another machine"):
        watch(network(), path, resume=True)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder(path: Path, options: dict[str, Any]) -> None:
    folder = path.with_suffix(".sqlite")
    folder.mkdir()
    (folder / "mine").write_text("mine")
    with pytest.raises(RecordError, match="is a folder; give"):
        watch(network(), path, **options)
    assert (folder / "mine").read_text() == "mine"


def test_a_newer_format(path: Path) -> None:
    run(path, 1)
    file = path.with_suffix(".sqlite")
    execute(file, f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    before = file.read_bytes()
    with pytest.raises(RecordError, match="newer than the 3 this gammabeta reads; upgrade"):
        watch(network(), path, resume=True)
    assert file.read_bytes() == before


def test_an_older_format(path: Path) -> None:
    file = version_2.write(path.with_suffix(".sqlite"))
    before = file.read_bytes()
    with pytest.raises(RecordError, match="by another version of gammabeta and cannot be continu"):
        watch(network(), path, resume=True)
    assert file.read_bytes() == before
    run(path, 1, overwrite=True)
    assert steps_of(path) == [1]


# A watch that fails.


class Fails(nn.Linear):
    """Cannot be watched."""

    def register_forward_pre_hook(self, *args: Any, **kwargs: Any) -> Any:
        raise OSError("no hooks here")


def test_a_failed_watch_leaves_no_file(path: Path) -> None:
    with pytest.raises(OSError, match="no hooks here"):
        watch(Fails(2, 2), path)
    assert list(path.parent.iterdir()) == []
    with Record(path) as record, pytest.raises(OSError, match="no hooks here"):
        watch(Fails(2, 2), record)
    assert steps_of(path) == []  # a shared record is its owner's


def test_a_failed_watch_leaves_a_file_that_was_there(path: Path) -> None:
    run(path, 2)
    with pytest.raises(OSError, match="no hooks here"):
        watch(Fails(2, 2), path, resume=True)
    assert steps_of(path) == [1, 2]
    assert run(path, 1, resume=True) == [3, 3]
