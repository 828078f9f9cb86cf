"""The CSV file: what is written is what is read, and what was measured is kept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from gammabeta.lab.bench.results import COLUMNS, Table, here, read
from tests.lab.bench.rows import SETTING, timed

ROW = timed("bn", "eager", 0.00123, copy=4e-4, rounds=9, calls=3, note='a, "note"\nin two lines')


def test_rows_come_back_as_they_went(tmp_path: Path) -> None:
    absent = replace(ROW, q20=math.nan, q50=math.nan, q80=math.nan, note="no compiler")
    table = Table(tmp_path / "new/folder/norm.csv")
    table.add([ROW])
    table.add([absent])
    first, second = read(table.path)
    assert first == ROW
    assert math.isnan(second.q50)
    assert replace(second, q20=0, q50=0, q80=0) == replace(absent, q20=0, q50=0, q80=0)
    assert table.path.read_text().splitlines()[0] == ",".join(COLUMNS)


def test_figures_keep_six_digits(tmp_path: Path) -> None:
    table = Table(tmp_path / "norm.csv")
    table.add([timed("bn", "eager", 0.00123456789)])
    assert read(table.path)[0].q50 == 0.00123457


def test_an_older_file_stays_until_there_is_something_new(tmp_path: Path) -> None:
    path = tmp_path / "norm.csv"
    path.write_text("old")
    table = Table(path)
    assert path.read_text() == "old"
    table.add([ROW])
    assert read(path) == [ROW]


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="is not a file of gammabeta bench"):
        read(path)


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "norm.csv").mkdir()
    with pytest.raises(IsADirectoryError, match="need that name for a file"):
        Table(tmp_path / "norm.csv")


def test_a_setting_says_where_and_how() -> None:
    text = str(SETTING)
    for part in ("a CPU", "2 threads", "allocator reuse", "torch 2.13.0", "at abc"):
        assert part in text
    mine = here("reuse")
    assert mine.allocator == "reuse"
    assert mine.threads >= 1
    assert mine.cpu
    assert mine.date.startswith("20")
