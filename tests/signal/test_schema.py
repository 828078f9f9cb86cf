"""The table of fields: what follows from it, files with other columns, and files of version 1."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.signal import Record, RecordError, Run, schema
from gammabeta.signal.schema import FIELDS, Summary, fields_of
from tests.signal import version_1
from tests.signal.recorded import fill, same, summary
from tests.signal.wider import install, widen


def columns(path: Path) -> list[tuple[str, str, int]]:
    """Name, type and NOT NULL of each column of the table of signals, as SQLite has them."""
    connection = sqlite3.connect(path)
    rows = connection.execute("PRAGMA table_info(signal)").fetchall()
    connection.close()
    return [(name, type_, not_null) for _, name, type_, not_null, _, _ in rows]


def execute(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def one(path: Path, probe: int = 0) -> Summary:
    with Run(path) as run:
        (frame,) = run.frames()
        return frame.signals[probe]


def record_one(path: Path, measured: Summary) -> Path:
    with Record(path) as record:
        arm = record.arm("a")
        record.write(arm, 1, {}, {record.probe(arm, 1, "fc", "z", None): measured})
    return record.path


def test_the_columns_are_those_of_version_1(tmp_path: Path) -> None:
    """The fields that were there before the table have the SQL that was written by hand."""
    old = columns(version_1.write(tmp_path / "old.sqlite"))
    new = columns(record_one(tmp_path / "new", summary(1)))
    assert len(old) == 18
    assert new[: len(old)] == old


def test_a_field_that_an_older_file_lacks_may_be_missing() -> None:
    assert {f.name for f in FIELDS if f.missing == "never"} <= set(version_1.SIGNALS[0])


def test_the_file_describes_its_columns(tmp_path: Path) -> None:
    path = record_one(tmp_path / "run", summary(1))
    connection = sqlite3.connect(path)
    ((text,),) = connection.execute("SELECT value FROM meta WHERE key = 'fields'").fetchall()
    connection.close()
    described = json.loads(text)
    assert described == [asdict(f) for f in FIELDS]
    assert ["frame", "probe", *(d["name"] for d in described)] == [c[0] for c in columns(path)]
    assert all(d["description"] for d in described)


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
        assert columns(path)[-2:] == [("kurtosis", "REAL", 0), ("rank", "REAL", 0)]
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


def test_the_order_of_the_columns_is_the_files_own(tmp_path: Path) -> None:
    path = record_one(tmp_path / "run", summary(1))
    names = [name for name, _, _ in columns(path)]
    execute(
        path,
        f"CREATE TABLE turned AS SELECT {', '.join(reversed(names))} FROM signal",
        "DROP TABLE signal",
        "ALTER TABLE turned RENAME TO signal",
    )
    assert same(one(path), summary(1))


def test_a_file_without_a_column_it_must_have(tmp_path: Path) -> None:
    path = record_one(tmp_path / "run", summary(1))
    execute(
        path,
        "CREATE TABLE short AS SELECT frame, probe, count FROM signal",
        "DROP TABLE signal",
        "ALTER TABLE short RENAME TO signal",
    )
    with pytest.raises(RecordError) as caught:
        Run(path)
    assert str(caught.value) == f"{path} is damaged: its signals have no histogram"
    execute(path, "DROP TABLE signal")
    with pytest.raises(RecordError, match="is damaged: its signals have no count"):
        Run(path)


# Version 1.


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    with Run(version_1.write(tmp_path / "old.sqlite")) as run:
        assert (run.title, run.settings, run.status()) == (
            "A run of version 1",
            {"lr": 0.1},
            "finished",
        )
        assert run.arms() == {0: "model"}
        assert [(p.layer, p.stage, p.activation) for p in run.probes()] == [
            (1, "z", "tanh"),
            (1, "activation", "tanh"),
        ]
        assert [(s.step, s.name, s.value) for s in run.scalars()] == [(7, "loss", 0.5)]
        (frame,) = run.frames()
        assert (frame.id, frame.arm, frame.step, frame.seconds) == (1, 0, 7, 2.5)
        for probe, written in version_1.SIGNALS.items():
            for name, value in written.items():
                read = getattr(frame.signals[probe], name)
                if name == "histogram":
                    assert read.dtype == torch.int64
                    assert read.tolist() == value
                elif value is None and name not in ("saturated", "dead", "gradient"):
                    assert math.isnan(read), name
                else:
                    assert read == value, name


def test_a_file_of_version_1_is_read_when_fields_were_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch)
    read: Any = one(version_1.write(tmp_path / "old.sqlite"))
    assert (read.mean, read.rank, math.isnan(read.kurtosis)) == (0.25, None, True)


def test_the_writer_does_not_add_to_a_file_of_version_1(tmp_path: Path) -> None:
    path = version_1.write(tmp_path / "old.sqlite")
    before = path.read_bytes()
    with pytest.raises(RecordError, match="exists"), Record(path) as record:
        fill(record, 1)
    assert path.read_bytes() == before
