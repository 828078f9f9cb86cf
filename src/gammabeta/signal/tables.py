"""The tables of a record's file, and how a `Summary` becomes a row and is read back.

The columns of the ``signal`` table are the fields of `gammabeta.signal.schema`. A file says which
columns it has, so a field may be added without a new format version: a reader takes the columns it
knows by name, and leaves the others.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammabeta.signal import schema
from gammabeta.signal.schema import Field, Summary

APPLICATION_ID = 0x67616D62  # "gamb"; SQLite tools and `Run` recognize the file by it
FORMAT_VERSION = 2
"""Version 1 had a fixed set of signal columns and did not describe them in ``meta``."""

TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE arm(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE probe(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), layer INTEGER NOT NULL,
  name TEXT NOT NULL, stage TEXT NOT NULL, activation TEXT,
  UNIQUE(arm, layer, stage));
CREATE TABLE scalar(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  name TEXT NOT NULL, value REAL, UNIQUE(arm, step, name));
CREATE TABLE frame(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  seconds REAL NOT NULL, UNIQUE(arm, step));
"""
"""All tables but ``signal``, see `SignalTable`."""

NUMBER = (int, float, type(None))
"""Python types of a REAL column's values; SQLite itself does not enforce them."""


class SignalTable:
    """The ``signal`` table of one file: its SQL, and the conversion of its rows.

    Args:
        fields: those that the file has.

    Attributes:
        fields: the same.
        create: SQL that creates the table.
        insert: SQL that inserts a `row`.
        select: SQL that selects a frame's probes and the values for `summary`.
        types: Python types of the values that ``select`` returns.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._names = tuple(f.name for f in fields)
        columns = ", ".join(
            f"{f.name} {f.sql}{' NOT NULL' if f.missing == 'never' else ''}" for f in fields
        )
        self.create = (
            "CREATE TABLE signal(frame INTEGER NOT NULL REFERENCES frame(id), "
            f"probe INTEGER NOT NULL REFERENCES probe(id), {columns}, "
            "PRIMARY KEY(frame, probe)) WITHOUT ROWID;"
        )
        names = ", ".join(self._names)
        marks = ", ".join("?" for _ in fields)
        self.insert = f"INSERT INTO signal(frame, probe, {names}) VALUES(?, ?, {marks})"
        self.select = f"SELECT probe, {names} FROM signal WHERE frame = ? ORDER BY probe"
        self.types: tuple[Any, ...] = (int, *(_TYPES[f.sql] for f in fields))
        self._values = attrgetter(*self._names)
        self._blobs = [i for i, f in enumerate(fields) if f.sql == "BLOB"]
        self._readers = [
            (i, _READERS[f.sql, f.missing])
            for i, f in enumerate(fields)
            if (f.sql, f.missing) in _READERS
        ]
        self._absent: dict[str, Any] = {
            f.name: f.absent for f in schema.FIELDS if f.name not in self._names
        }

    def row(self, frame: int, probe: int, summary: Summary) -> Sequence[Any]:
        """Return the values that `insert` takes."""
        values = list(self._values(summary))
        for i in self._blobs:
            values[i] = _pack(values[i])
        return (frame, probe, *values)

    def summary(self, values: Sequence[Any]) -> Summary:
        """Return the summary whose ``values`` `select` has returned.

        Raises:
            ValueError, TypeError, zlib.error: a histogram is damaged.
        """
        read = list(values)
        for i, reader in self._readers:
            read[i] = reader(read[i])
        return schema.Summary(**self._absent, **dict(zip(self._names, read, strict=True)))


def _pack(histogram: Tensor) -> bytes:
    return zlib.compress(histogram.numpy().astype(np.uint32).tobytes(), 1)


def _unpack(blob: Any) -> Tensor:
    counts = np.frombuffer(zlib.decompress(blob), dtype=np.uint32)
    return torch.from_numpy(counts.astype(np.int64))


def _nan_if_null(value: float | None) -> float:
    return math.nan if value is None else float(value)


_TYPES: dict[str, Any] = {"INTEGER": int, "REAL": NUMBER, "BLOB": object}
_READERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("REAL", "nan"): _nan_if_null,
    ("BLOB", "never"): _unpack,
}
