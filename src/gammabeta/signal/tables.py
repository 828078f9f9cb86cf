"""The tables of a record's file.

A frame is one row of ``frame``: its signals are two blobs, see `gammabeta.signal.columns`. In
formats 1 and 2 each signal is a row of ``signal``, which `SignalTable` reads.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gammabeta.signal import axis, schema
from gammabeta.signal.schema import Field, Summary

APPLICATION_ID = 0x67616D62  # "gamb"; SQLite tools and `Run` recognize the file by it
FORMAT_VERSION = 3
"""Format 1 had a fixed set of signal columns, format 2 described them in ``meta``, format 3 has one
row a frame, marks, and values by channel."""

FINDINGS = """
CREATE TABLE IF NOT EXISTS finding(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  finding TEXT NOT NULL)
"""
"""Files of format 3 that were begun by an older gammabeta do not have this table."""

TABLES = f"""
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE arm(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE probe(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), layer INTEGER NOT NULL,
  name TEXT NOT NULL, stage TEXT NOT NULL, activation TEXT,
  UNIQUE(arm, layer, stage));
CREATE TABLE scalar(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  name TEXT NOT NULL, value REAL, UNIQUE(arm, step, name));
CREATE TABLE mark(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  text TEXT NOT NULL);
{FINDINGS.strip()};
CREATE TABLE frame(
  id INTEGER PRIMARY KEY, arm INTEGER NOT NULL REFERENCES arm(id), step INTEGER NOT NULL,
  seconds REAL NOT NULL, probes INTEGER NOT NULL, signals BLOB NOT NULL,
  histograms BLOB NOT NULL, crc INTEGER NOT NULL, UNIQUE(arm, step));
CREATE TABLE channel(
  frame INTEGER NOT NULL REFERENCES frame(id), probe INTEGER NOT NULL REFERENCES probe(id),
  channels BLOB NOT NULL, PRIMARY KEY(probe, frame)) WITHOUT ROWID;
"""

NUMBER = (int, float, type(None))
"""Python types of a REAL column's values; SQLite itself does not enforce them."""

_LARGEST = 4 * axis.BINS
"""Bytes of a histogram in formats 1 and 2."""


class SignalTable:
    """The ``signal`` table of a file in format 1 or 2: one row a signal.

    Args:
        fields: those that the file has.

    Attributes:
        fields: the same.
        select: SQL that selects a frame's probes and the values for `summary`.
        types: Python types of the values that ``select`` returns.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._names = tuple(f.name for f in fields)
        names = ", ".join(self._names)
        self.select = f"SELECT probe, {names} FROM signal WHERE frame = ? ORDER BY probe"
        self.types: tuple[Any, ...] = (int, *(_TYPES[f.sql] for f in fields))
        self._readers = [
            (i, _READERS[f.sql, f.missing])
            for i, f in enumerate(fields)
            if (f.sql, f.missing) in _READERS
        ]
        self._absent: dict[str, Any] = {
            f.name: f.absent for f in schema.FIELDS if f.name not in self._names
        }

    def summary(self, values: Sequence[Any]) -> Summary:
        """Return the summary whose ``values`` `select` has returned.

        Raises:
            ValueError, TypeError, zlib.error: a histogram is damaged.
        """
        read = list(values)
        for i, reader in self._readers:
            read[i] = reader(read[i])
        return schema.Summary(**self._absent, **dict(zip(self._names, read, strict=True)))


def _unpack(blob: Any) -> Tensor:
    data = zlib.decompressobj().decompress(blob, _LARGEST + 1)
    counts = np.frombuffer(data, dtype=np.uint32)
    if len(counts) != axis.BINS:
        raise ValueError(f"a histogram has {len(counts)} bins instead of {axis.BINS}")
    return torch.from_numpy(counts.astype(np.int64))


def _nan_if_null(value: float | None) -> float:
    return math.nan if value is None else float(value)


_TYPES: dict[str, Any] = {"INTEGER": int, "REAL": NUMBER, "BLOB": object}
_READERS: dict[tuple[str, str], Callable[[Any], Any]] = {
    ("REAL", "nan"): _nan_if_null,
    ("BLOB", "never"): _unpack,
}
