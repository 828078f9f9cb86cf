"""Everything of a run as columns: NumPy arrays, data frames, CSV and Parquet."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from gammabeta.signal import Record, RecordError, Run
from gammabeta.signal.columns import numeric
from gammabeta.signal.schema import FIELDS
from tests.signal import version_2
from tests.signal.recorded import STAGES, fill, summary

KEYS = ["arm", "step", "seconds", "layer", "name", "stage"]
NUMBERS = [each.name for each in numeric(FIELDS)]
ODD = 'a, "quoted"\nγ = 1'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two arms of three frames with eight probes, a frame of one probe, and two marks."""
    with Record(tmp_path / "run") as record:
        fill(record, 3)
        arm = record.arm(ODD)
        probe = record.probe(arm, 1, ODD, "z", None)
        odd = summary(5, mean=math.nan, gradient=None, maximum=math.inf)
        record.write(arm, 10, {"loss": math.nan}, {probe: odd}, seconds=2.5)
        record.mark(0, 2, "lr drop")
        record.mark(arm, 10, ODD)
    return record.path


def test_signals(path: Path) -> None:
    with Run(path) as run:
        table = run.table()
        frames = list(run.frames())
        probes = {probe.id: probe for probe in run.probes()}
        arms = run.arms()
    assert list(table) == [*KEYS, *NUMBERS]
    assert {column.shape for column in table.values()} == {(2 * 3 * 8 + 1,)}
    kinds = {name: table[name].dtype.kind for name in KEYS}
    assert kinds == {
        "arm": "O",
        "step": "i",
        "seconds": "f",
        "layer": "i",
        "name": "O",
        "stage": "O",
    }
    assert {table[name].dtype for name in NUMBERS} == {np.dtype(np.int64), np.dtype(np.float64)}
    i = 0
    for frame in frames:
        for number, measured in frame.signals.items():
            probe = probes[number]
            assert [table[key][i] for key in KEYS] == [
                *(arms[frame.arm], frame.step, frame.seconds),
                *(probe.layer, probe.name, probe.stage),
            ]
            for name in NUMBERS:
                value = getattr(measured, name)
                expected = math.nan if value is None else value
                np.testing.assert_equal(table[name][i], expected)
            i += 1
    assert i == 49
    assert math.isnan(table["gradient"][-1])
    assert table["maximum"][-1] == math.inf


def test_scalars(path: Path) -> None:
    with Run(path) as run:
        table = run.table("scalars")
    assert {name: column.dtype.kind for name, column in table.items()} == {
        "arm": "O",
        "step": "i",
        "name": "O",
        "value": "f",
    }
    assert table["step"].tolist() == [1, 1, 2, 2, 3, 3, 10]
    assert table["arm"].tolist() == ["without", "with"] * 3 + [ODD]
    assert table["value"][:-1].tolist() == [1.0, 1.0, 0.5, 0.5, 1 / 3, 1 / 3]
    assert math.isnan(table["value"][-1])


def test_marks(path: Path) -> None:
    with Run(path) as run:
        table = run.table("marks")
    assert {name: column.tolist() for name, column in table.items()} == {
        "arm": ["without", ODD],
        "step": [2, 10],
        "text": ["lr drop", ODD],
    }


def test_a_run_of_nothing(tmp_path: Path) -> None:
    Record(tmp_path / "run").close()
    with Run(tmp_path / "run.sqlite") as run:
        for kind in ("signals", "scalars", "marks"):
            table = run.table(kind)
            assert table
            assert all(column.shape == (0,) for column in table.values())
            run.save_table(tmp_path / f"{kind}.csv", kind)
            (line,) = (tmp_path / f"{kind}.csv").read_text().splitlines()
            assert line.split(",") == list(table)


def test_an_older_file(tmp_path: Path) -> None:
    with Run(version_2.write(tmp_path / "old.sqlite")) as run:
        table = run.table()
        assert run.table("marks")["text"].shape == (0,)
    assert list(table) == [*KEYS, *(name for name in version_2.KINDS if name != "histogram")]
    assert table["step"].tolist() == [7, 7, 9, 9]
    assert table["count"].tolist() == [14, 3, 14, 3]


def test_an_unknown_kind(path: Path) -> None:
    with Run(path) as run, pytest.raises(ValueError, match=r"kind='signal' is not known; did you"):
        run.table("signal")


def test_csv(path: Path, tmp_path: Path) -> None:
    with Run(path) as run:
        for kind in ("signals", "scalars", "marks"):
            written = run.save_table(tmp_path / f"{kind}.csv", kind)
            assert written == tmp_path / f"{kind}.csv"
            table = run.table(kind)
            with written.open(newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            assert head == list(table)
            columns = list(zip(*rows, strict=True))
            for column, texts in zip(table.values(), columns, strict=True):
                if column.dtype.kind == "O":
                    assert list(texts) == column.tolist()
                else:  # every digit
                    np.testing.assert_array_equal(np.array(texts, dtype=column.dtype), column)


def test_parquet(path: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    with Run(path) as run:
        for kind in ("signals", "scalars", "marks"):
            run.save_table(str(tmp_path / f"{kind}.parquet"), kind)
            table = run.table(kind)
            read = parquet.read_table(tmp_path / f"{kind}.parquet")
            assert read.column_names == list(table)
            for name, column in table.items():
                np.testing.assert_array_equal(read[name].to_numpy(), column)


def test_data_frames(path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    with Run(path) as run:
        frame = pandas.DataFrame(run.table())
        scalars = pandas.DataFrame(run.table("scalars"))
    assert frame.shape == (49, len(KEYS) + len(NUMBERS))
    of_layer = frame[(frame.arm == "with") & (frame.layer == 2) & (frame.stage == STAGES[0])]
    assert of_layer.step.tolist() == [1, 2, 3]
    assert scalars.groupby("arm").value.min()["with"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("suffix", ["", ".txt", ".CSV", ".csv.gz", ".sqlite"])
def test_another_suffix(path: Path, tmp_path: Path, suffix: str) -> None:
    with Run(path) as run, pytest.raises(RecordError, match=r"give a path that ends with \.csv or"):
        run.save_table(tmp_path / f"table{suffix}")
    assert [each.name for each in tmp_path.iterdir()] == ["run.sqlite"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_that_exists_is_left_alone(path: Path, tmp_path: Path, suffix: str) -> None:
    taken = tmp_path / f"table{suffix}"
    taken.write_text("mine")
    with Run(path) as run:
        with pytest.raises(RecordError, match="exists; give another path, or move it away"):
            run.save_table(taken)
        (tmp_path / f"folder{suffix}").mkdir()
        with pytest.raises(RecordError, match="exists"):
            run.save_table(tmp_path / f"folder{suffix}")
    assert taken.read_text() == "mine"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_folder_that_is_missing(path: Path, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    with Run(path) as run, pytest.raises(RecordError, match=r"cannot be written: .*No such file"):
        run.save_table(tmp_path / "missing" / f"table{suffix}")


@pytest.mark.parametrize("given", ["", "a\0b.csv"])
def test_a_path_that_names_no_file(path: Path, given: str) -> None:
    with Run(path) as run, pytest.raises(RecordError, match="names no file"):
        run.save_table(given)


def test_parquet_without_pyarrow(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with (
        Run(path) as run,
        pytest.raises(RecordError, match=r"pip install pyarrow, or give a \.csv"),
    ):
        run.save_table(tmp_path / "table.parquet")
    assert not (tmp_path / "table.parquet").exists()


def test_the_home_folder(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Run(path) as run:
        assert run.save_table("~/table.csv", "scalars") == tmp_path / "table.csv"
    assert (tmp_path / "table.csv").is_file()


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """A mark of half a character cannot be stored; what can, is written as UTF-8."""
    with Record(tmp_path / "run") as record:
        record.mark(record.arm("a"), 1, "層 🙂")
    with Run(record.path) as run:
        run.save_table(tmp_path / "marks.csv", "marks")
    assert "層 🙂" in (tmp_path / "marks.csv").read_text(encoding="utf-8")
