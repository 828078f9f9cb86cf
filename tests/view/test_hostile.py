"""Records that are damaged, or made to do harm: refused or bounded, in one line."""

from __future__ import annotations

import functools
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gammabeta.signal import Record, RecordError, Run
from gammabeta.signal.columns import Columns, checksum
from gammabeta.signal.record import Measured
from gammabeta.view.packing import pack
from gammabeta.view.payload import encoded, snapshot
from gammabeta.view.runs import Runs
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.view.shown import strict

NAMES = ["__proto__", "constructor", "toString", "hasOwnProperty", "prototype", "length", ""]


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """Three frames of each of two arms, and 3,000 more losses, which fill many pages."""
    with Record(tmp_path / "run", "A title", {"lr": 0.1}) as record:
        fill(record, 3)
        probe = record.probe(0, 1, "layers.1", "gamma", None)
        columns = Columns.of({probe: summary(1)})
        values = np.ones(3, dtype=np.float32)
        record.write(0, 4, {}, lambda: Measured(columns, {probe: values}, {}))
        record.mark(0, 2, "a mark")
        for step in range(1000, 4000):
            record.write(0, step, {"loss": 1 / step})
    return record.path


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return version_1.write(tmp_path / "run.sqlite")


def execute(path: Path, *statements: str | tuple[str, Any]) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for each in statements:
            connection.execute(*(each if isinstance(each, tuple) else (each,)))
    connection.close()


def everything(path: Path) -> Any:
    """Do all that a page can ask for, and return what it is told."""
    shown = Runs([path]).now()
    size = shown.size
    for block in shown.store.column("mean", 0, size.frames, size.probes):
        assert len(block) < 1 << 20
    for _ in shown.store.shapes(range(size.frames), range(size.probes)):
        pass
    for probe in shown.index.probes:
        shown.store.channels(probe.id, 10**6)
    pack(shown)
    return strict(snapshot(shown))


@contextmanager
def little_memory(limit: float = 200) -> Iterator[None]:
    """Fail if more than ``limit`` megabytes are taken, or ten seconds."""

    def megabytes(key: str) -> float:
        status = Path("/proc/self/status").read_text()
        found = re.search(rf"{key}:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    before, began = megabytes("VmRSS"), time.monotonic()
    yield
    assert megabytes("VmHWM") - before < limit
    assert time.monotonic() - began < 10


def complaint(path: Path) -> Any:
    """Return what a page is told; if it is refused, the message."""
    try:
        return everything(path)
    except RecordError as e:
        return str(e)


def refused(path: Path, said: str) -> None:
    with little_memory(), pytest.raises(RecordError) as caught:
        everything(path)
    message = str(caught.value)
    assert re.search(said, message), message
    assert "\n" not in message
    assert len(message) < 300
    assert str(path) in message or "the record is damaged" in message


def test_a_harmless_one_is_read(recorded: Path) -> None:
    data = everything(recorded)
    assert len(data["frames"]["step"]) == 7


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE arm SET name = x'00'",
        "UPDATE probe SET layer = 'one'",
        "UPDATE probe SET name = NULL",
        "UPDATE probe SET name = x'ff'",
        "UPDATE probe SET stage = x'07'",
        "UPDATE probe SET activation = x'07'",
        "UPDATE frame SET step = 'x'",
        "UPDATE frame SET seconds = 'late'",
        "UPDATE frame SET signals = 'text'",
        "UPDATE frame SET histograms = 12",
        "UPDATE frame SET crc = 'x'",
        "UPDATE frame SET probes = 2.5",
        "UPDATE scalar SET value = 'much'",
        "UPDATE scalar SET name = x'07'",
        "UPDATE mark SET text = x'00'",
        "UPDATE channel SET channels = 'text'",
    ],
)
def test_values_of_other_types(recorded: Path, sql: str) -> None:
    table = sql.split()[1]
    execute(
        recorded,
        f"CREATE TABLE copy AS SELECT * FROM {table}",
        f"DROP TABLE {table}",
        f"ALTER TABLE copy RENAME TO {table}",
        sql.replace("probe SET", f"{table} SET"),
    )
    refused(recorded, "is damaged: it holds a value of the wrong type")


@pytest.mark.parametrize("name", NAMES)
def test_names_that_mean_something_to_a_page(tmp_path: Path, name: str) -> None:
    """They are values everywhere: no object has them as a key but the settings."""
    with Record(tmp_path / "run", name, {name: {name: name}}) as record:
        arm = record.arm(name)
        probe = record.probe(arm, 1, name, name, name)
        record.write(arm, 1, {name: 1.0}, {probe: summary(1)})
        record.mark(arm, 1, name)
    data = everything(record.path)
    assert data.pop("settings") == {name: {name: name}}
    assert data["runs"][0].pop("settings") == {name: {name: name}}

    def keys(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            yield from value
        for each in value.values() if isinstance(value, dict) else value:
            if isinstance(each, (dict, list)):
                yield from keys(each)

    assert name not in set(keys(data))
    assert (data["arms"][0]["name"], data["probes"][0]["stage"]) == (name, name)


@pytest.mark.parametrize("depth", [100_000, 5000])
@pytest.mark.parametrize("kind", ["list", "dict"])
def test_settings_without_a_bottom(recorded: Path, depth: int, kind: str) -> None:
    text = "[" * depth + "]" * depth if kind == "list" else '{"a":' * depth + "1" + "}" * depth
    sql = "UPDATE meta SET value = ? WHERE key = 'settings'"
    execute(recorded, (sql, (f'{{"deep": {text}}}',)))
    refused(recorded, "is damaged: its description cannot be read")


@pytest.mark.parametrize("depth", [300, 900])
@pytest.mark.parametrize(
    "key", ["settings", "title", "status", "created", "starts", "pid", "host", "axis", "more"]
)
def test_a_description_that_is_deep(recorded: Path, key: str, depth: int) -> None:
    """Deep, but not too deep for JSON: it is cut off, or the run is refused."""
    deep = "[" * depth + "]" * depth
    value = f'{{"note": {deep}, "deep": {deep}}}' if key == "settings" else deep
    execute(recorded, ("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value)))
    if key == "axis":
        refused(recorded, "is damaged")
        return
    data = complaint(recorded)
    if isinstance(data, str):
        assert "its description cannot be read" in data
    else:
        assert len(encoded(data["settings"])) < 200


@pytest.mark.parametrize(
    "axis",
    [
        *("null", "7", '"x"', "[]", "{}", '{"limit": 100, "linear": 0.5, "bins": 255}'),
        *('{"limit": -1, "linear": 0.5, "bins": 256}', '{"limit": 1, "linear": "x", "bins": 256}'),
        '{"limit": 1e999, "linear": 0.5, "bins": 256}',
    ],
)
def test_an_axis_that_is_none(recorded: Path, axis: str) -> None:
    execute(recorded, ("UPDATE meta SET value = ? WHERE key = 'axis'", (axis,)))
    refused(recorded, "is damaged: its axis cannot be read")


@pytest.mark.parametrize(
    "fields",
    ["null", "[]", "{}", "[1]", '[{"name": "mean"}]', '[{"name": "mean", "sql": "REAL"}]', "[[]]"],
)
def test_fields_that_are_none(recorded: Path, fields: str) -> None:
    execute(recorded, ("UPDATE meta SET value = ? WHERE key = 'fields'", (fields,)))
    refused(recorded, "is damaged: its (fields cannot be read|signals have no)")


# What inflates.


@functools.cache
def inflating(code: bytes) -> bytes:
    """A few megabytes that inflate to a gigabyte of zeros."""
    deflate = zlib.compressobj(1)
    zeros = bytes(1 << 20)
    return code + b"".join(deflate.compress(zeros) for _ in range(1024)) + deflate.flush()


def with_blobs(path: Path, signals: bytes, histograms: bytes, probes: int | None = None) -> None:
    """Give the first frame other numbers, and the right checksum."""
    connection = sqlite3.connect(path)
    ((frame, step, count),) = connection.execute(
        "SELECT id, step, probes FROM frame ORDER BY id LIMIT 1"
    ).fetchall()
    with connection:
        connection.execute(
            "UPDATE frame SET signals = ?, histograms = ?, probes = ?, crc = ? WHERE id = ?",
            (signals, histograms, probes or count, checksum(step, signals, histograms), frame),
        )
    connection.close()


def blobs(path: Path) -> tuple[bytes, bytes]:
    connection = sqlite3.connect(path)
    row = connection.execute("SELECT signals, histograms FROM frame ORDER BY id").fetchone()
    connection.close()
    return row[0], row[1]


def test_numbers_that_inflate_to_a_gigabyte(recorded: Path) -> None:
    signals, histograms = blobs(recorded)
    with_blobs(recorded, inflating(signals[:1]), histograms)
    refused(recorded, "is damaged: step 1: a frame does not have the size that it says")


def test_histograms_that_inflate_to_a_gigabyte(recorded: Path) -> None:
    signals, histograms = blobs(recorded)
    with_blobs(recorded, signals, inflating(histograms[:1]))
    refused(recorded, "is damaged: step 1: a frame does not have the size that it says")


@pytest.mark.parametrize("probes", [10**6, 1 << 24, 1 << 40, -1, 17])
def test_a_frame_that_has_more_probes_than_there_are(recorded: Path, probes: int) -> None:
    signals, _ = blobs(recorded)
    huge = inflating(signals[:1])
    with_blobs(recorded, huge, inflating(b"h"), probes)
    refused(recorded, "is damaged: (the numbers of step 1 were changed|step 1: a frame does not)")


@pytest.mark.parametrize("code", [b"", b"x", b"fx", b"f" + zlib.compress(b""), b"h"])
def test_a_blob_of_no_known_form(recorded: Path, code: bytes) -> None:
    signals, histograms = blobs(recorded)
    with_blobs(recorded, code, histograms)
    refused(recorded, "is damaged: step 1: ")
    with_blobs(recorded, signals, code.replace(b"f", b"q") if code != b"h" else b"hh")
    refused(recorded, "is damaged: step 1: ")


def test_an_old_histogram_that_inflates_to_a_gigabyte(old: Path) -> None:
    execute(old, ("UPDATE signal SET histogram = ?", (inflating(b""),)))
    refused(old, "is damaged: a signal cannot be read")


def test_values_by_channel_that_are_none(recorded: Path) -> None:
    for blob in (bytes(8), zlib.compress(bytes(5)), zlib.compress(bytes(4 * 257)), inflating(b"")):
        execute(recorded, ("UPDATE channel SET channels = ?", (blob,)))
        refused(recorded, "is damaged: it holds no values by channel")


def test_a_name_of_many_megabytes(recorded: Path) -> None:
    execute(recorded, ("UPDATE probe SET name = ?", ("x" * 3_000_000,)))
    with little_memory(300):
        data = everything(recorded)
    assert {len(probe["name"]) for probe in data["probes"]} == {20_001}


# Tables that are none.

ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)"
VIEWS = {
    "arm": f"{ENDLESS} SELECT i AS id, 'a' || i AS name FROM n",
    "probe": f"{ENDLESS} SELECT i AS id, 0 AS arm, i AS layer, 'a' AS name, 'z' AS stage, "
    "NULL AS activation FROM n",
    "scalar": f"{ENDLESS} SELECT i AS id, 0 AS arm, i AS step, 'a' AS name, 1.0 AS value FROM n",
    "mark": f"{ENDLESS} SELECT i AS id, 0 AS arm, i AS step, 'a' AS text FROM n",
    "meta": f"{ENDLESS} SELECT 'k' || i AS key, '1' AS value FROM n",
    "frame": f"{ENDLESS} SELECT i AS id, 0 AS arm, i AS step, 1.0 AS seconds, 0 AS probes, "
    "x'00' AS signals, x'00' AS histograms, 0 AS crc FROM n",
    "channel": f"{ENDLESS} SELECT i AS frame, 0 AS probe, x'00' AS channels FROM n",
}


@pytest.mark.parametrize("table", VIEWS)
def test_an_endless_view_instead_of_a_table(recorded: Path, table: str) -> None:
    execute(recorded, f"DROP TABLE {table}", f"CREATE VIEW {table} AS {VIEWS[table]}")
    refused(recorded, f"is damaged or cut short .*its {table} is no plain table")


def test_an_endless_view_in_an_old_file(old: Path) -> None:
    columns = "i AS frame, 0 AS probe, 1 AS count"
    execute(old, "DROP TABLE signal", f"CREATE VIEW signal AS {ENDLESS} SELECT {columns} FROM n")
    refused(old, "is damaged or cut short .*its signal is no plain table")


def test_a_virtual_table_instead_of_a_table(recorded: Path) -> None:
    connection = sqlite3.connect(recorded)
    try:
        connection.execute("CREATE VIRTUAL TABLE x USING fts5(a)")
    except sqlite3.OperationalError:
        pytest.skip("this SQLite has no virtual table to try")
    finally:
        connection.close()
    execute(
        recorded,
        "DROP TABLE mark",
        "CREATE VIRTUAL TABLE mark USING fts5(id, arm, step, text)",
    )
    refused(recorded, "is damaged or cut short .*its mark is no plain table")


def test_a_column_that_is_computed(recorded: Path) -> None:
    execute(
        recorded,
        "DROP TABLE mark",
        "CREATE TABLE mark(id INTEGER PRIMARY KEY, arm, step, "
        "text GENERATED ALWAYS AS (hex(zeroblob(200000000))))",
        "INSERT INTO mark(id, arm, step) VALUES(1, 0, 1)",
    )
    refused(recorded, "is damaged or cut short .*its mark is no plain table")


# Pages.


def children(path: Path, table: str) -> tuple[bytearray, int, list[int]]:
    """Return a file, the offset of a table's root page, and the places of its child pointers."""
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)
    ).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    content = bytearray(path.read_bytes())
    start = (root - 1) * size
    assert content[start] == 5  # an interior page
    cells = int.from_bytes(content[start + 3 : start + 5], "big")
    places = [
        start + int.from_bytes(content[start + 12 + 2 * i : start + 14 + 2 * i], "big")
        for i in range(cells)
    ]
    assert len(places) >= 2
    return content, size, places


def swap_pages(path: Path) -> None:
    content, size, (first, second, *_) = children(path, "scalar")
    a, b = (
        (int.from_bytes(content[place : place + 4], "big") - 1) * size for place in (first, second)
    )
    content[a : a + size], content[b : b + size] = content[b : b + size], content[a : a + size]
    path.write_bytes(content)


def repeat_a_page(path: Path) -> None:
    content, _, (first, *rest) = children(path, "scalar")
    for place in rest:
        content[place : place + 4] = content[first : first + 4]
    path.write_bytes(content)


def turn_in_a_circle(path: Path) -> None:
    connection = sqlite3.connect(path)
    (root,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'scalar'"
    ).fetchone()
    connection.close()
    content, _, places = children(path, "scalar")
    for place in places:
        content[place : place + 4] = root.to_bytes(4, "big")
    path.write_bytes(content)


@pytest.mark.parametrize("harm", [swap_pages, repeat_a_page, turn_in_a_circle])
def test_pages_that_are_not_where_they_belong(recorded: Path, harm: Callable[[Path], None]) -> None:
    harm(recorded)
    refused(recorded, "is damaged")


def test_a_table_of_millions_of_rows_in_few_pages(recorded: Path) -> None:
    """Each interior page names the same page a hundred times, level above level."""
    connection = sqlite3.connect(recorded)
    with connection:
        connection.executemany(
            "INSERT INTO scalar(arm, step, name, value) VALUES(0, ?, 'more', 1.0)",
            [(step,) for step in range(200_000)],
        )
    connection.close()
    content, size, places = children(recorded, "scalar")
    levels = 0
    page = (int.from_bytes(content[places[0] : places[0] + 4], "big") - 1) * size
    while content[page] == 5:
        levels += 1
        cells = int.from_bytes(content[page + 3 : page + 5], "big")
        own = [
            page + int.from_bytes(content[page + 12 + 2 * i : page + 14 + 2 * i], "big")
            for i in range(cells)
        ]
        for place in own:
            content[place : place + 4] = content[own[0] : own[0] + 4]
        page = (int.from_bytes(content[own[0] : own[0] + 4], "big") - 1) * size
    for place in places:
        content[place : place + 4] = content[places[0] : places[0] + 4]
    assert levels >= 1
    recorded.write_bytes(content)
    refused(recorded, "is damaged")


# Numbers that were changed.


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE frame SET signals = CAST(substr(signals, 1, 20) || x'aa' || substr(signals, 22) "
        "AS BLOB) WHERE id = 3",
        "UPDATE frame SET histograms = CAST(histograms || x'00' AS BLOB) WHERE id = 3",
        "UPDATE frame SET crc = crc + 1 WHERE id = 3",
        "UPDATE frame SET step = 77 WHERE id = 3",
        "UPDATE frame SET signals = (SELECT signals FROM frame WHERE id = 1) WHERE id = 3",
    ],
)
def test_numbers_that_were_changed_are_not_drawn(recorded: Path, sql: str) -> None:
    execute(recorded, sql)
    shown = Runs([recorded]).now()
    for ask in (
        lambda: list(shown.store.column("mean", 0, shown.size.frames, shown.size.probes)),
        lambda: list(shown.store.shapes([2], [0])),
        lambda: pack(shown),
    ):
        with pytest.raises(RecordError, match=r"is damaged: the numbers of step \d+ were changed"):
            ask()
    assert list(shown.store.column("mean", 0, 2, shown.size.probes))  # others are as they were


def test_what_refers_to_nothing(recorded: Path) -> None:
    execute(recorded, "UPDATE scalar SET arm = 99 WHERE id = 5")
    refused(recorded, "is damaged: it refers to an arm that it does not have")


def test_a_frame_of_unknown_probes(recorded: Path) -> None:
    """They are left out."""
    with Run(recorded) as run:
        frame = next(run.frames())
        known = frame.probes.tolist()
    execute(recorded, f"DELETE FROM probe WHERE id = {known[0]}")
    data = everything(recorded)
    assert len(data["probes"]) == 16
    shown = Runs([recorded]).now()
    table = np.frombuffer(b"".join(shown.store.column("mean", 0, 1, 16)), "<f4")
    assert np.isfinite(table).sum() == len(known) - 1


@pytest.mark.parametrize("seconds", ["9e999", "-9e999", "NULL", "1e300"])
def test_a_time_that_is_none(recorded: Path, seconds: str) -> None:
    execute(
        recorded,
        "CREATE TABLE copy AS SELECT * FROM frame",
        "DROP TABLE frame",
        "ALTER TABLE copy RENAME TO frame",
        f"UPDATE frame SET seconds = {seconds}",
    )
    assert set(everything(recorded)["frames"]["seconds"]) <= {0.0, None}


def test_a_description_of_anything(recorded: Path) -> None:
    values = ["null", "1e999", "[]", '""', "12345678901234567890" * 50, '"\\ud800"', "true"]
    for key in ("title", "status", "created", "settings", "pid", "host", "torch", "started"):
        for value in values:
            execute(recorded, ("INSERT OR REPLACE INTO meta VALUES(?, ?)", (key, value)))
            data = complaint(recorded)
            assert not isinstance(data, str) or (
                key == "settings" and "its settings are not a dict" in data
            )
        execute(recorded, f"DELETE FROM meta WHERE key = '{key}'")
