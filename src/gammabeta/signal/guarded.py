"""Read the tables of a file that may have been damaged, or made to do harm.

What is in a file is bounded by its size, as long as its tables are tables: a view can have rows
without end, and pages that are used twice can make a table of any length. `rows` gives up then.
"""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

TABLES = ("meta", "arm", "probe", "scalar", "mark", "finding", "frame", "channel", "signal")

_LONGEST = 1 << 28
"""Bytes of one value. 10,000 histograms take 5 MB."""
_SECONDS = 60.0
_ROW = 4
"""Bytes that a row takes at least: two in the page's list of cells, its length, and its key."""
_AT_ONCE = 4096
_OPERATIONS = 100_000


class HarmfulError(sqlite3.DatabaseError):
    """A file cannot be what a record is."""


def restrict(connection: sqlite3.Connection) -> None:
    """Bound what reading from ``connection`` can cost, and refuse tables that are none.

    Raises:
        HarmfulError: one is a view or a virtual table.
    """
    if hasattr(connection, "setlimit"):  # since Python 3.11
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST)
    connection.execute("PRAGMA trusted_schema=OFF")
    found = rows(connection, None, "SELECT name, type, sql FROM sqlite_master")
    for name, kind, sql in found:
        if name in TABLES and (kind != "table" or not _is_plain(sql)):
            raise HarmfulError(f"malformed: its {name} is no plain table")


def _is_plain(sql: Any) -> bool:
    words = str(sql).upper().split(None, 2)
    return words[:2] == ["CREATE", "TABLE"] and "GENERATED" not in str(sql).upper()


def rows(
    connection: sqlite3.Connection, path: Path | None, sql: str, values: tuple[Any, ...] = ()
) -> list[Any]:
    """Return all rows that ``sql`` selects.

    Args:
        connection: the file.
        path: its path; None if it does not bound the number of rows.
        sql: a SELECT.
        values: the values of its parameters.

    Raises:
        HarmfulError: there are more rows than the file has room for.
        sqlite3.Error: they cannot be read, or not in a minute.
    """
    deadline = time.monotonic() + _SECONDS
    connection.set_progress_handler(lambda: time.monotonic() > deadline, _OPERATIONS)
    try:
        most = _AT_ONCE if path is None else _size(path) // _ROW + _AT_ONCE
        found: list[Any] = []
        cursor = connection.execute(sql, values)
        while some := cursor.fetchmany(_AT_ONCE):
            found += some
            if len(found) > most:
                raise HarmfulError("malformed: it has more rows than its size allows")
        return found
    except sqlite3.OperationalError as e:
        if str(e) != "interrupted":
            raise
        raise HarmfulError(f"malformed: reading it takes more than {_SECONDS:.0f} s") from e
    finally:
        connection.set_progress_handler(None, 0)


def ascending(found: list[Any]) -> bool:
    """Return whether the first values of rows ascend, as those of a key do."""
    return all(a[0] < b[0] for a, b in itertools.pairwise(found))


def _size(path: Path) -> int:
    size = 0
    for name in (path, f"{path}-wal"):
        try:
            size += os.stat(name).st_size
        except OSError:
            continue
    return size
