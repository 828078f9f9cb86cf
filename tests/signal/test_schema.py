"""The table of fields: what follows from it, files with other fields, and files of old versions."""

from __future__ import annotations

import json
import math
import sqlite3
import tracemalloc
import zlib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.signal import Record, RecordError, Run, schema
from gammabeta.signal.run import Frame
from gammabeta.signal.schema import FIELDS, Summary, fields_of
from tests.signal import version_1, version_2
from tests.signal.recorded import fill, same, summary
from tests.signal.wider import install, widen


def columns(path: Path) -> list[tuple[str, str, int]]:
    """Name, type and NOT NULL of each column of an old file's table of signals."""
    connection = sqlite3.connect(path)
    rows = connection.execute("PRAGMA table_info(signal)").fetchall()
    connection.close()
    return [(name, type_, not_null) for _, name, type_, not_null, _, _ in rows]


def execute(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def described(path: Path) -> list[dict[str, Any]]:
    """What a file says of its fields, in its order."""
    connection = sqlite3.connect(path)
    ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'fields'").fetchall()
    connection.close()
    found: list[dict[str, Any]] = json.loads(text)
    return found


def describe(path: Path, fields: Any) -> None:
    """Let a file say something else of its fields."""
    execute(path, "UPDATE meta SET value = ? WHERE key = 'fields'", json.dumps(fields))


def one(path: Path, probe: int = 0) -> Summary:
    with Run(path) as run:
        frame = next(run.frames())
        return frame.signals[probe]


def record_one(path: Path, measured: Summary) -> Path:
    with Record(path) as record:
        arm = record.arm("a")
        record.write(arm, 1, {}, {record.probe(arm, 1, "fc", "z", None): measured})
    return record.path


@pytest.mark.parametrize("version", [version_1, version_2])
def test_the_fields_are_those_of_older_versions(tmp_path: Path, version: Any) -> None:
    """The fields that were there before have the name, place and type that they had."""
    old = columns(version.write(tmp_path / "old.sqlite"))[2:]
    assert len(old) == 16
    new = [(f.name, f.sql, int(f.missing == "never")) for f in FIELDS]
    assert new[: len(old)] == old


def test_a_field_that_an_older_file_lacks_may_be_missing() -> None:
    assert {f.name for f in FIELDS if f.missing == "never"} <= set(version_1.SIGNALS[0])


def test_the_file_describes_its_fields(tmp_path: Path) -> None:
    path = record_one(tmp_path / "run", summary(1))
    assert described(path) == [asdict(f) for f in FIELDS]
    assert all(each["description"] for each in described(path))


@pytest.mark.parametrize("type_", ["str", "list[float]", "int | None"])
def test_a_type_that_a_record_cannot_hold(type_: str) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd(Summary):
        odd: Any = field(metadata={"description": "odd"})

    Odd.__annotations__["odd"] = type_
    with pytest.raises(
        TypeError, match=r"odd is declared .*; use int, float, float \| None or Ten"
    ):
        fields_of(Odd)


def test_a_field_without_a_description() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Summary):
        silent: float

    with pytest.raises(TypeError, match="silent has no description"):
        fields_of(Silent)


# One more field.


def test_a_field_that_is_added_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    for i, wide in enumerate(
        [
            widen(summary(1), kurtosis=3.25, rank=0.5),
            widen(summary(2), kurtosis=math.nan),
            widen(summary(3), kurtosis=math.inf, rank=0.0),
        ]
    ):
        path = record_one(tmp_path / str(i), wide)
        new = [(each["name"], each["sql"], each["missing"]) for each in described(path)][-2:]
        assert new == [("kurtosis", "REAL", "nan"), ("rank", "REAL", "none")]
        read: Any = one(path)
        assert type(read) is type(wide)
        assert same(read, wide)
        assert read.kurtosis == wide.kurtosis or math.isnan(read.kurtosis + wide.kurtosis)
        assert read.rank == wide.rank


def test_a_file_from_before_the_field_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record_one(tmp_path / "run", summary(1))
    install(monkeypatch)
    read: Any = one(path)
    assert same(read, summary(1))
    assert math.isnan(read.kurtosis)
    assert read.rank is None
    with Run(path) as run:
        assert run.fields == FIELDS


def test_a_file_with_a_field_unknown_here_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as wider:
        install(wider)
        path = record_one(tmp_path / "run", widen(summary(1), kurtosis=3.0))
    assert same(one(path), summary(1))
    assert type(one(path)) is schema.Summary
    with Run(path) as run:
        assert run.fields == FIELDS


def test_the_order_of_the_fields_is_the_files_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as turned:
        turned.setattr(schema, "FIELDS", tuple(reversed(FIELDS)))
        path = record_one(tmp_path / "run", summary(1))
    assert [each["name"] for each in described(path)] == [f.name for f in reversed(FIELDS)]
    assert same(one(path), summary(1))


def test_the_order_of_the_columns_of_an_old_file_is_its_own(tmp_path: Path) -> None:
    usual = version_2.write(tmp_path / "usual.sqlite")
    turned = version_2.write(tmp_path / "turned.sqlite", order=tuple(reversed(version_2.KINDS)))
    assert columns(turned)[2:] == list(reversed(columns(usual)[2:]))
    with Run(usual) as a, Run(turned) as b:
        for frame, other in zip(a.frames(), b.frames(), strict=True):
            assert all(same(frame.signals[p], other.signals[p], rel=0) for p in (0, 1))


def test_an_old_file_with_a_column_unknown_here_is_read(tmp_path: Path) -> None:
    path = version_2.write(tmp_path / "old.sqlite", more=("kurtosis", "rank"))
    with Run(path) as run:
        assert [f.name for f in run.fields] == list(version_2.KINDS)
        first, second = run.frames()
        assert (first.signals[0].mean, second.signals[0].gradient) == (0.25, 1.5)


@pytest.mark.parametrize("name", ["histogram", "count", "zeros"])
def test_a_file_without_a_field_it_must_have(tmp_path: Path, name: str) -> None:
    path = record_one(tmp_path / "run", summary(1))
    describe(path, [each for each in described(path) if each["name"] != name])
    with pytest.raises(RecordError) as caught:
        Run(path)
    assert str(caught.value) == f"{path} is damaged: its signals have no {name}"


def test_an_old_file_without_a_column_it_must_have(tmp_path: Path) -> None:
    path = version_2.write(tmp_path / "run.sqlite", order=("count",))
    with pytest.raises(RecordError) as caught:
        Run(path)
    assert str(caught.value) == f"{path} is damaged: its signals have no histogram"
    execute(path, "DROP TABLE signal")
    with pytest.raises(RecordError, match="is damaged: its signals have no count"):
        Run(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: None,
        lambda fields: {},
        lambda fields: 5,
        lambda fields: "mean",
        lambda fields: [1, 2],
        lambda fields: [{"name": "mean"}],
        lambda fields: [{**each, "sql": "TEXT"} for each in fields],
        lambda fields: [{**each, "sql": "INTEGER"} for each in fields],
        lambda fields: [{**each, "missing": "nan"} for each in fields],
        lambda fields: [{**each, "sql": ["REAL"]} for each in fields],
        lambda fields: [{**each, "name": ["mean"]} for each in fields],
        lambda fields: [{**each, "name": 5} for each in fields],
        lambda fields: [*fields, *fields],
        lambda fields: fields + 10_000 * [{**fields[1], "name": "more"}],
    ],
)
def test_a_file_that_does_not_describe_its_fields(tmp_path: Path, damage: Any) -> None:
    """Whatever it says: one clean error, when it is opened or when its frame is read."""
    path = record_one(tmp_path / "run", summary(1))
    describe(path, damage(described(path)))
    with pytest.raises(RecordError, match="is damaged: ") as caught:
        one(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


# Versions 1 and 2.


@pytest.mark.parametrize("version", [version_1, version_2])
def test_a_file_of_an_old_version_is_read(tmp_path: Path, version: Any) -> None:
    two = version is version_2
    steps = version_2.STEPS if two else (7,)
    with Run(version.write(tmp_path / "old.sqlite")) as run:
        assert (run.title, run.settings, run.status()) == (
            f"A run of version {1 + two}",
            {"lr": 0.1},
            "finished",
        )
        assert run.version == 1 + two
        assert run.arms() == {0: "model"}
        assert [(p.layer, p.stage, p.activation) for p in run.probes()] == [
            (1, "z", "tanh"),
            (1, "activation", "tanh"),
        ]
        assert [(s.step, s.name) for s in run.scalars()] == [(step, "loss") for step in steps]
        assert run.scalars()[0].value == (1 / 7 if two else 0.5)
        assert run.marks() == []
        assert run.channels(0, 100) is None
        frames = list(run.frames())
        assert [(f.id, f.arm, f.step, f.seconds) for f in frames] == [
            (i, 0, step, step / 2 if two else 2.5) for i, step in enumerate(steps, 1)
        ]
        assert [tuple(moment) for moment in run.index()] == [
            (f.id, f.arm, f.step, f.seconds) for f in frames
        ]
        assert [f.id for f in run.frames(after=1)] == [f.id for f in frames[1:]]
        for frame in frames:
            as_written(frame)


def as_written(frame: Frame) -> None:
    """A frame of an old file, as objects and as columns."""
    assert frame.probes.tolist() == [0, 1]
    assert frame.histograms.tolist() == [s["histogram"] for s in version_1.SIGNALS.values()]
    for i, (probe, written) in enumerate(version_1.SIGNALS.items()):
        for name, value in written.items():
            read = getattr(frame.signals[probe], name)
            if name == "histogram":
                assert read.dtype == torch.int64
                assert read.tolist() == value
                continue
            column = frame.values[name]
            if value is None and name not in ("saturated", "dead", "gradient"):
                assert math.isnan(read), name
            else:
                assert read == value, name
            assert math.isnan(column[i]) if value is None else column[i] == value
        for name in ("sampled", "stderr", "norm", "update"):  # unknown then
            assert getattr(frame.signals[probe], name) is None


def test_a_file_of_version_1_is_read_when_fields_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    read: Any = one(version_1.write(tmp_path / "old.sqlite"))
    assert (read.mean, read.rank, math.isnan(read.kurtosis)) == (0.25, None, True)


@pytest.mark.parametrize("version", [version_1, version_2])
def test_the_writer_does_not_add_to_a_file_of_an_old_version(tmp_path: Path, version: Any) -> None:
    path = version.write(tmp_path / "old.sqlite")
    before = path.read_bytes()
    with pytest.raises(RecordError, match="exists"), Record(path) as record:
        fill(record, 1)
    with (
        pytest.raises(RecordError, match="written by another version of gammabeta and cannot be"),
        Record(path, resume=True) as record,
    ):
        fill(record, 1)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["old.sqlite"]


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE signal SET count = x'78'", "a value of the wrong type"),
        ("UPDATE signal SET saturated = 'x'", "a value of the wrong type"),
        ("UPDATE signal SET gradient = x'78'", "a value of the wrong type"),
        ("UPDATE signal SET histogram = x'78'", "a signal cannot be read"),
        ("UPDATE signal SET histogram = 'text'", "a signal cannot be read"),
        ("UPDATE signal SET histogram = zeroblob(2000)", "a signal cannot be read"),
    ],
)
def test_an_old_file_that_is_damaged(tmp_path: Path, sql: str, said: str) -> None:
    path = version_2.write(tmp_path / "old.sqlite")
    execute(path, f"{sql} WHERE frame = 2")
    with Run(path) as run:
        frames = run.frames()
        as_written(next(frames))
        with pytest.raises(RecordError, match=f"is damaged: .*{said}"):
            next(frames)


def test_an_old_histogram_that_inflates_to_much_more(tmp_path: Path) -> None:
    path = version_2.write(tmp_path / "old.sqlite")
    execute(path, "UPDATE signal SET histogram = ?", zlib.compress(bytes(64 << 20)))
    tracemalloc.start()
    try:
        with Run(path) as run, pytest.raises(RecordError, match="a signal cannot be read"):
            next(run.frames())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
