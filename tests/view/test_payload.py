"""What a page is told, compared with the record's own tables read by another route."""

from __future__ import annotations

import json
import math
import sqlite3
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from gammabeta.signal import Record
from gammabeta.signal.schema import FIELDS
from gammabeta.signal.summary import SATURATION
from gammabeta.view.index import Size
from gammabeta.view.payload import increment, plain, read_cursor
from gammabeta.view.runs import Runs
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.signal.wider import install, widen
from tests.view.shown import strict, told


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """2 arms × 6 frames × 8 probes."""
    with Record(tmp_path / "run", "A title", {"lr": 0.1, "note": "What it shows."}) as record:
        fill(record, 6)
        record.mark(1, 4, "lr drop")
    return record.path


def tables(path: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(path)
    rows = connection.execute(sql).fetchall()
    connection.close()
    return rows


def same_number(given: float | None, recorded: float | None) -> bool:
    """Whether ``given`` is ``recorded`` to seven significant digits; null if not finite."""
    if recorded is None or not math.isfinite(recorded):
        return given is None
    assert given is not None
    digits = len(Decimal(repr(given)).normalize().as_tuple().digits)
    # Half a unit of the seventh digit is at most 5e-7 of the number (or nothing, if subnormal).
    return digits <= 7 and (
        given == recorded or math.isclose(given, recorded, rel_tol=5.0001e-7, abs_tol=0.0)
    )


def points(data: Any) -> list[tuple[Any, ...]]:
    """Every point of every curve: (arm, step, name, value)."""
    return sorted(
        (each["arm"], step, each["name"], value)
        for each in data["scalars"]
        for step, value in zip(each["steps"], each["values"], strict=True)
    )


def test_the_frames_are_the_records(recorded: Path) -> None:
    frames = told(recorded)["frames"]
    expected = tables(recorded, "SELECT arm, step, seconds FROM frame ORDER BY id")
    assert len(expected) == 12
    assert list(zip(*(frames[k] for k in ("arm", "step", "seconds")), strict=True)) == expected


def test_scalars_marks_arms_and_probes_are_the_records(recorded: Path) -> None:
    data = told(recorded)
    scalars = sorted(tables(recorded, "SELECT arm, step, name, value FROM scalar"))
    assert len(scalars) == 14
    for given, expected in zip(points(data), scalars, strict=True):
        assert given[:3] == expected[:3]
        assert same_number(given[3], expected[3])
    assert data["marks"] == [{"arm": 1, "step": 4, "text": "lr drop"}]
    arms = [(arm["id"], arm["name"], arm["run"]) for arm in data["arms"]]
    assert arms == tables(recorded, "SELECT id, name, 0 FROM arm")
    keys = ("id", "arm", "layer", "name", "stage", "activation")
    probes = tables(recorded, f"SELECT {', '.join(keys)} FROM probe ORDER BY id")
    assert [tuple(p[k] for k in keys) for p in data["probes"]] == probes
    assert len(probes) == 16


def test_the_head(recorded: Path) -> None:
    data = told(recorded)
    ((created,),) = tables(recorded, "SELECT value FROM meta WHERE key = 'created'")
    keys = ("format", "version", "title", "note", "status", "settings", "created")
    assert {key: data[key] for key in keys} == {
        "format": "gammabeta-run",
        "version": 3,
        "title": "A title",
        "note": "What it shows.",
        "status": "finished",
        "settings": {"lr": 0.1},
        "created": json.loads(created),
    }
    assert data["axis"] == {"limit": 100.0, "linear": 0.5, "bins": 256}
    assert data["runs"] == [
        {
            "name": "run",
            "title": "A title",
            "status": "finished",
            "created": json.loads(created),
            "settings": {"lr": 0.1, "note": "What it shows."},
        }
    ]
    # An end that is at infinity is null: there is no such side.
    assert data["saturation"].keys() == SATURATION.keys()
    assert data["saturation"]["sigmoid"] == [-4, 4]
    assert data["saturation"]["relu"] == [0, None]


def test_a_run_without_a_title_is_called_by_its_file(tmp_path: Path) -> None:
    with Record(tmp_path / "second try") as record:
        pass
    data = told(record.path)
    assert data["title"] == "second try"
    assert (data["arms"], data["probes"], data["scalars"], data["marks"]) == ([], [], [], [])
    assert data["frames"] == {"arm": [], "step": [], "seconds": []}
    assert read_cursor(data["cursor"])[1] == Size()


@pytest.mark.parametrize(
    "value",
    [0.1 + 0.2, 1 / 3, 123456789.0, 2 / 3e-30, 1e300, 5e-324, -1e-7, 9999999.5, 16777217.0],
)
def test_seven_digits(tmp_path: Path, value: float) -> None:
    with Record(tmp_path / "run") as record:
        record.write(record.arm("a"), 1, {"loss": value, "minus": -value})
    (loss, minus) = (point[3] for point in points(told(record.path)))
    assert same_number(loss, value)
    assert minus == -loss


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        record.write(arm, 1, {"loss": math.nan, "up": math.inf, "down": -math.inf, "one": 1.0})
    assert points(told(record.path)) == [
        *((0, 1, n, None) for n in ("down", "loss")),
        (0, 1, "one", 1),
        (0, 1, "up", None),
    ]


def test_settings_that_are_not_finite(tmp_path: Path) -> None:
    settings = {"clip": math.inf, "deep": {"rates": [0.5, math.nan, -math.inf]}, "n": 10**20}
    with Record(tmp_path / "run", settings=settings) as record:
        pass
    assert told(record.path)["settings"] == {
        "clip": "inf",
        "deep": {"rates": [0.5, "nan", "-inf"]},
        "n": 10**20,
    }


def test_words_that_are_no_unicode(tmp_path: Path) -> None:
    """A file name need not be UTF-8: Python has half a surrogate pair for each such byte."""
    settings = {"data\udcff": ["a\udcff", "γ"], "note": "\ud800"}
    with Record(tmp_path / "run", "run \udcff", settings) as record:
        pass
    data = told(record.path)
    assert (data["title"], data["note"]) == ("run ?", "?")
    assert data["settings"] == {"data?": ["a?", "γ"]}


def test_what_has_no_end_is_cut() -> None:
    deep: Any = "end"
    for _ in range(400):
        deep = [{"a": deep}]
    cut = json.dumps(plain(deep))
    assert len(cut) < 400
    assert "…" in json.loads(cut.replace("\\u2026", "…"))[0]["a"][0]["a"].__repr__()
    assert len(plain("x" * 10**6)) == 20_001
    assert plain(10**400) == "a number too large to be shown"


@pytest.mark.parametrize("most", [1, 2, 5, 11, 12, 13])
def test_increments_make_the_snapshot(recorded: Path, most: int) -> None:
    shown = Runs([recorded]).now()
    whole_run = told(recorded)
    sent, frames, scalars, marks, probes = Size(), [], [], [], []
    while sent != shown.size:
        until = Size(
            *(min(n, m + most) for n, m in zip(_counts(shown.size), _counts(sent), strict=True))
        )
        news = strict(increment(shown.index, sent, until))
        assert news["arms"] == whole_run["arms"]
        epoch, sent = read_cursor(news["cursor"])
        assert (epoch, sent) == (shown.index.epoch, until)
        frames += list(zip(*news["frames"].values(), strict=True))
        scalars += points(news)
        marks += news["marks"]
        probes += news["probes"]
    assert frames == list(zip(*whole_run["frames"].values(), strict=True))
    assert sorted(scalars) == points(whole_run)
    assert (marks, probes) == (whole_run["marks"], whole_run["probes"])
    assert news["cursor"] == whole_run["cursor"]


def _counts(size: Size) -> tuple[int, ...]:
    return size.frames, size.scalars, size.marks, size.probes, size.findings


def test_the_fields_that_a_page_lists(recorded: Path) -> None:
    fields = {field["name"]: field for field in told(recorded)["fields"]}
    assert list(fields) == [each.name for each in FIELDS if each.label]
    assert fields["saturated"] == {
        "name": "saturated",
        "label": "saturated",
        "description": "fraction of the sampled values in the activation's saturated zone",
        "unit": "fraction of values",
        "show": "percent",
        "optional": True,
    }


def test_a_field_that_is_added_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Record(tmp_path / "before") as record:
        fill(record, 1)
    before = record.path
    install(monkeypatch)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "fc", "z", None)
        record.write(arm, 1, {}, {probe: widen(summary(1), kurtosis=math.nan, rank=1 / 3)})
    kurtosis, rank = told(record.path)["fields"][-2:]
    assert (kurtosis["label"], kurtosis["show"], kurtosis["optional"]) == (
        *("kurtosis", "number", False),
    )
    assert (rank["label"], rank["show"], rank["optional"]) == ("rank used", "percent", True)
    shown = Runs([record.path]).now()
    (value,) = memoryview(b"".join(shown.store.column("rank", 0, 1, 1))).cast("f")
    assert value == pytest.approx(1 / 3, rel=1e-6)  # float32
    # A file from before the field does not claim to have it.
    assert "rank" not in {field["name"] for field in told(before)["fields"]}


def test_a_file_of_version_1(tmp_path: Path) -> None:
    data = told(version_1.write(tmp_path / "old.sqlite"))
    assert (data["title"], data["settings"], data["status"]) == (
        *("A run of version 1", {"lr": 0.1}, "finished"),
    )
    assert data["frames"]["step"] == [7]
    assert "sampled" not in {field["name"] for field in data["fields"]}


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "1", "0:0", "a.1.2.3.4", "a.1.2.3.4.5.6", "a.1.2.3.4.x", "a.-1.0.0.0.0"),
        *("a.²⁷.0.0.0.0", "a.1.0.0.0.", f"a.{10**30}.0.0.0.0", "a" * 99 + ".1.0.0.0"),
        "a.+1.0.0.0.0",
    ],
)
def test_what_is_no_cursor(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_cursor(text)
