"""What a page is given, compared with the record's own tables read by another route."""

from __future__ import annotations

import json
import math
import sqlite3
import struct
import zlib
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.signal import Record, Run, axis
from gammabeta.signal.schema import FIELDS
from gammabeta.view.payload import increment, snapshot
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.signal.wider import install, widen

COLUMNS = [
    *("probe", "count", "mean", "std", "p15", "p50", "p85", "minimum", "maximum", "first"),
    *("counts", "under", "over", "nonfinite", "zeros", "saturated", "dead", "gradient"),
]
"""The page's side knows these by name."""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """2 arms × 6 frames × 8 probes."""
    with Record(tmp_path / "run", "A title", {"lr": 0.1, "note": "What it shows."}) as record:
        fill(record, 6)
    return record.path


def strict(value: Any) -> Any:
    """Return ``value`` as a page would read it: through JSON that has no NaN and no infinity."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(json.dumps(value), parse_constant=refuse)


def taken(path: Path) -> Any:
    with Run(path) as run:
        return strict(snapshot(run))


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


def whole(first: int, counts: list[int]) -> tuple[int, ...]:
    """The full histogram of the trimmed one."""
    return (0,) * first + tuple(counts) + (0,) * (axis.BINS - first - len(counts))


def test_every_frame_is_the_records(recorded: Path) -> None:
    data = taken(recorded)
    assert data["columns"] == COLUMNS
    frames = tables(recorded, "SELECT id, arm, step FROM frame ORDER BY id")
    assert [(f["arm"], f["step"]) for f in data["frames"]] == [(a, s) for _, a, s in frames]
    assert len(frames) == 12
    names = [name for name in COLUMNS if name not in ("first", "counts")]
    for frame, (id_, _, _) in zip(data["frames"], frames, strict=True):
        rows = tables(
            recorded,
            f"SELECT {', '.join(names)}, histogram FROM signal WHERE frame = {id_} ORDER BY probe",
        )
        for signal, (*numbers, blob) in zip(frame["signals"], rows, strict=True):
            given = dict(zip(COLUMNS, signal, strict=True))
            for name, number in zip(names, numbers, strict=True):
                assert same_number(given[name], number), (name, given[name], number)
            counts = struct.unpack(f"<{axis.BINS}I", zlib.decompress(blob))
            assert whole(given["first"], given["counts"]) == counts
            assert given["counts"][0] > 0
            assert given["counts"][-1] > 0


def test_scalars_arms_and_probes_are_the_records(recorded: Path) -> None:
    data = taken(recorded)
    scalars = tables(recorded, "SELECT arm, step, name, value FROM scalar ORDER BY id")
    assert len(scalars) == 14
    for given, (arm, step, name, value) in zip(data["scalars"], scalars, strict=True):
        assert given[:3] == [arm, step, name]
        assert same_number(given[3], value)
    assert [(a["id"], a["name"]) for a in data["arms"]] == tables(recorded, "SELECT * FROM arm")
    keys = ("id", "arm", "layer", "name", "stage", "activation")
    assert [tuple(p[k] for k in keys) for p in data["probes"]] == tables(
        recorded, "SELECT * FROM probe"
    )
    assert len(data["probes"]) == 16


def test_the_head(recorded: Path) -> None:
    data = taken(recorded)
    ((created,),) = tables(recorded, "SELECT value FROM meta WHERE key = 'created'")
    given = {k: data[k] for k in ("format", "version", "title", "note", "status", "settings")}
    assert given == {
        "format": "gammabeta-run",
        "version": 2,
        "title": "A title",
        "note": "What it shows.",
        "status": "finished",
        "settings": {"lr": 0.1},
    }
    assert data["created"] == json.loads(created)
    assert data["axis"] == {"limit": 100.0, "linear": 0.5, "bins": 256}
    # An end that is at infinity is null: there is no such side.
    assert data["saturation"] == {
        "sigmoid": [-4, 4],
        "tanh": [-2, 2],
        "relu": [0, None],
        "gelu": [-3, None],
        "silu": [-5, None],
    }
    assert data["cursor"] == {"frame": 12, "scalar": 14}


def test_a_run_without_a_title_is_called_by_its_file(tmp_path: Path) -> None:
    with Record(tmp_path / "second try") as record:
        pass
    data = taken(record.path)
    assert data["title"] == "second try"
    assert (data["arms"], data["probes"], data["frames"], data["scalars"]) == ([], [], [], [])
    assert data["cursor"] == {"frame": 0, "scalar": 0}


@pytest.mark.parametrize(
    "value",
    [0.1 + 0.2, 1 / 3, 123456789.0, 2 / 3e-30, 1e300, 5e-324, -1e-7, 9999999.5, 16777217.0],
)
def test_seven_digits(tmp_path: Path, value: float) -> None:
    given = first_signal(tmp_path, mean=value, gradient=value, minimum=-value)
    assert same_number(given["mean"], value)
    assert given["gradient"] == given["mean"] == -given["minimum"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "name",
    [field.name for field in FIELDS if field.sql == "REAL"],
)
def test_what_is_not_finite_is_null(tmp_path: Path, name: str, value: float) -> None:
    given = first_signal(tmp_path, **{name: value})
    assert [n for n in COLUMNS if given[n] is None] == [name]


def test_not_measured_is_null(tmp_path: Path) -> None:
    given = first_signal(tmp_path, saturated=None, dead=None, gradient=None)
    assert [n for n in COLUMNS if given[n] is None] == ["saturated", "dead", "gradient"]


def first_signal(folder: Path, **changes: Any) -> dict[str, Any]:
    with Record(folder / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "fc", "z", None)
        record.write(arm, 1, {}, {probe: summary(1, **changes)})
    return dict(zip(COLUMNS, taken(record.path)["frames"][0]["signals"][0], strict=True))


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        record.write(arm, 1, {"loss": math.nan, "up": math.inf, "down": -math.inf, "one": 1.0})
    scalars = [[0, 1, n, None] for n in ("loss", "up", "down")]
    assert taken(record.path)["scalars"] == [*scalars, [0, 1, "one", 1]]


def test_settings_that_are_not_finite(tmp_path: Path) -> None:
    settings = {"clip": math.inf, "deep": {"rates": [0.5, math.nan, -math.inf]}, "n": 10**20}
    with Record(tmp_path / "run", settings=settings) as record:
        pass
    assert taken(record.path)["settings"] == {
        "clip": "inf",
        "deep": {"rates": [0.5, "nan", "-inf"]},
        "n": 10**20,
    }


def test_words_that_are_no_unicode(tmp_path: Path) -> None:
    """A file name need not be UTF-8: Python has half a surrogate pair for each such byte."""
    settings = {"data\udcff": ["a\udcff", "γ"], "note": "\ud800"}
    with Record(tmp_path / "run", "run \udcff", settings) as record:
        pass
    data = taken(record.path)
    assert (data["title"], data["note"]) == ("run ?", "?")
    assert data["settings"] == {"data?": ["a?", "γ"]}
    json.dumps(data, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("counts", "first", "trimmed"),
    [
        ({}, 0, []),
        ({0: 3}, 0, [3]),
        ({255: 4}, 255, [4]),
        ({100: 1, 103: 2}, 100, [1, 0, 0, 2]),
        ({0: 1, 255: 1}, 0, [1, *[0] * 254, 1]),
    ],
)
def test_a_histogram_is_trimmed(
    tmp_path: Path, counts: dict[int, int], first: int, trimmed: list[int]
) -> None:
    histogram = torch.zeros(axis.BINS, dtype=torch.int64)
    for bin_, count in counts.items():
        histogram[bin_] = count
    given = first_signal(tmp_path, histogram=histogram)
    assert (given["first"], given["counts"]) == (first, trimmed)
    assert whole(given["first"], given["counts"]) == tuple(histogram.tolist())


@pytest.mark.parametrize("most", [1, 2, 5, 11, 12, 13, 64, -1])
def test_increments_make_the_snapshot(recorded: Path, most: int) -> None:
    whole_run = taken(recorded)
    frames: list[Any] = []
    scalars: list[Any] = []
    frame, scalar, sizes = 0, 0, []
    with Run(recorded) as run:
        while True:
            news = strict(increment(run, frame, scalar, most))
            assert (news["arms"], news["probes"]) == (whole_run["arms"], whole_run["probes"])
            cursor = (news["cursor"]["frame"], news["cursor"]["scalar"])
            if cursor == (frame, scalar):
                assert (news["frames"], news["scalars"]) == ([], [])
                break
            frame, scalar = cursor
            frames += news["frames"]
            scalars += news["scalars"]
            sizes.append(len(news["frames"]))
            assert len(sizes) <= 12  # it must come to an end
    assert frames == whole_run["frames"]
    assert scalars == whole_run["scalars"]
    assert {"frame": frame, "scalar": scalar} == whole_run["cursor"]
    size = 12 if most < 0 else min(most, 12)
    assert sizes == [size] * (12 // size) + ([12 % size] if 12 % size else [])


def test_increments_of_a_run_being_written(tmp_path: Path) -> None:
    """Read after every step, and now and then not, while arms and probes are still arriving."""
    frames: list[Any] = []
    scalars: list[Any] = []
    cursor = {"frame": 0, "scalar": 0}
    with Record(tmp_path / "run") as record, Run(record.path) as run:
        assert strict(snapshot(run))["status"] == "running"
        for step in range(1, 9):
            arm = record.arm(f"arm {step // 3}")
            probe = record.probe(arm, step, "fc", "z", "relu")
            record.write(arm, step, {"loss": step}, {probe: summary(step)})
            record.write(arm, 100 + step, {"loss": step / 8})  # a step that is no frame
            if step in (4, 5):
                continue
            record.flush()
            news = strict(increment(run, cursor["frame"], cursor["scalar"]))
            known = {probe["id"] for probe in news["probes"]}
            assert {signal[0] for frame in news["frames"] for signal in frame["signals"]} <= known
            assert {probe["arm"] for probe in news["probes"]} <= {a["id"] for a in news["arms"]}
            frames += news["frames"]
            scalars += news["scalars"]
            cursor = news["cursor"]
    whole_run = taken(record.path)
    assert [frame["step"] for frame in frames] == list(range(1, 9))
    assert frames == whole_run["frames"]
    assert scalars == whole_run["scalars"]
    assert cursor == whole_run["cursor"]


def test_the_fields_that_a_page_lists(recorded: Path) -> None:
    fields = {field["name"]: field for field in taken(recorded)["fields"]}
    assert list(fields) == [
        *("mean", "std", "p15", "p50", "p85", "minimum", "maximum"),
        *("under", "over", "nonfinite", "zeros", "saturated", "dead", "gradient"),
    ]
    assert set(fields) <= set(COLUMNS)
    assert fields["dead"] == {
        "name": "dead",
        "label": "dead units",
        "description": "fraction of units that are saturated for every example of the batch",
        "unit": "fraction of units",
        "show": "percent",
        "optional": True,
    }
    assert [name for name, field in fields.items() if field["optional"]] == [
        *("saturated", "dead", "gradient"),
    ]


def test_a_field_that_is_added_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Record(tmp_path / "before") as record:
        fill(record, 1)
    before = record.path
    install(monkeypatch)
    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "fc", "z", None)
        record.write(arm, 1, {}, {probe: widen(summary(1), kurtosis=math.nan, rank=1 / 3)})
    data = taken(record.path)
    assert data["columns"] == [*COLUMNS, "kurtosis", "rank"]
    assert data["frames"][0]["signals"][0][len(COLUMNS) :] == [None, 0.3333333]
    kurtosis, rank = data["fields"][-2:]
    assert (kurtosis["label"], kurtosis["show"], kurtosis["optional"]) == (
        *("kurtosis", "number", False),
    )
    assert (rank["label"], rank["show"], rank["optional"]) == ("rank used", "percent", True)
    # A file from before the field does not claim to have it.
    assert taken(before)["columns"] == COLUMNS


def test_a_file_of_version_1(tmp_path: Path) -> None:
    data = taken(version_1.write(tmp_path / "old.sqlite"))
    assert data["columns"] == COLUMNS
    assert (data["title"], data["settings"], data["status"]) == (
        *("A run of version 1", {"lr": 0.1}, "finished"),
    )
    (frame,) = data["frames"]
    for signal in frame["signals"]:
        given = dict(zip(COLUMNS, signal, strict=True))
        written = dict(version_1.SIGNALS[given.pop("probe")])
        assert whole(given.pop("first"), given.pop("counts")) == tuple(written.pop("histogram"))
        assert given == written
