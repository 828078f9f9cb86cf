"""Findings in a record: written beside their marks, read by old and new versions, never trusted."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gammabeta.signal import Record, RecordError, Run
from gammabeta.signal.found import as_json
from tests.signal import version_1

FOUND: dict[str, Any] = {
    "code": "GB316",
    "name": "nan",
    "severity": "error",
    "layer": "head",
    "layers": ["head", "body.0"],
    "cause": "its output is NaN",
    "numbers": {"step": 7, "largest input": math.inf, "why": "γ < β", "none": None},
    "fix": "torch.nan_to_num(x)",
    "cost": "",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Record(tmp_path / "run") as record:
        arm = record.arm("model")
        record.mark(arm, 3, "lr drop")
        record.finding(arm, 7, "GB316 head: its output is NaN", FOUND)
        record.finding(arm, 9, "GB315 the model: a spike", {"severity": "warning"})
    return record.path


def execute(path: Path, sql: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(sql, values)
    connection.close()


def test_what_was_found_comes_back(path: Path) -> None:
    with Run(path) as run:
        first, second = run.findings()
        assert (first.step, first.code, first.layers) == (7, "GB316", ("head", "body.0"))
        assert first.numbers == {"step": 7, "largest input": "inf", "why": "γ < β", "none": None}
        assert (second.severity, second.code, second.layers) == ("warning", "", ())
        assert run.findings(after=first.id) == [second]
        marks = [mark.text for mark in run.marks()]
        assert marks == ["lr drop", first.mark, second.mark]
        table = run.table("findings")
        assert list(table["code"]) == ["GB316", ""]
        assert list(table["step"]) == [7, 9]


def test_a_table_as_a_file(path: Path) -> None:
    with Run(path) as run:
        saved = run.save_table(path.with_suffix(".csv"), "findings")
    assert saved.read_text(encoding="utf-8").splitlines()[1].startswith("model,7,GB316,error,head,")


def test_files_without_findings(path: Path, tmp_path: Path) -> None:
    execute(path, "DROP TABLE finding")
    with Run(path) as run:
        assert run.findings() == []
    with Run(version_1.write(tmp_path / "old.sqlite")) as run:
        assert run.findings() == []
    with Record(path, resume=True) as record:
        record.finding(0, 12, "GB315 the model: a spike", {"severity": "warning"})
    with Run(path) as run:
        assert [each.step for each in run.findings()] == [12]


def test_an_earlier_step_forgets_what_was_found_later(path: Path) -> None:
    with Record(path, resume=8):
        pass
    with Run(path) as run:
        assert [each.step for each in run.findings()] == [7]


def test_keys_of_a_newer_version(path: Path) -> None:
    execute(path, "UPDATE finding SET finding = ?", as_json({**FOUND, "text": "t", "new": [1]}))
    with Run(path) as run:
        assert run.findings()[0].text == "t"


def test_json_has_no_nan() -> None:
    text = as_json({"numbers": {"a": math.nan, "b": [math.inf]}, "odd": object()})
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["numbers"]["a"] == "nan"


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", "{}", '{"severity": "fatal"}', "[" * 100_000),
        '{"severity": "error", "layer": 3}',
        '{"severity": "error", "layers": "head"}',
        '{"severity": "error", "numbers": [1]}',
        json.dumps({"severity": "error", "cause": "x" * 1_000_001}),
    ],
    ids=range(11),
)
def test_a_damaged_finding(path: Path, text: str) -> None:
    execute(path, "UPDATE finding SET finding = ? WHERE step = 9", text)
    with Run(path) as run, pytest.raises(RecordError, match="is damaged") as raised:
        run.findings()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "what", ["VIEW finding AS SELECT 1", "VIRTUAL TABLE finding USING fts5(a)"]
)
def test_a_table_that_is_none(path: Path, what: str) -> None:
    execute(path, "DROP TABLE finding")
    execute(path, f"CREATE {what}")
    with pytest.raises(RecordError, match="finding is no plain table"):
        Run(path)


def test_a_copy_of_a_record_notes_nothing(path: Path) -> None:
    make: Callable[..., Any]
    make, args = Record.__reduce__(object.__new__(type("R", (Record,), {"path": path})))
    make(*args).finding(0, 1, "text", {"severity": "info"})
