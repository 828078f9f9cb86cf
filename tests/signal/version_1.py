"""A file of format version 1 in literal SQL, written without the code under test."""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from pathlib import Path
from typing import Any

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
CREATE TABLE signal(
  frame INTEGER NOT NULL REFERENCES frame(id), probe INTEGER NOT NULL REFERENCES probe(id),
  count INTEGER NOT NULL, mean REAL, std REAL, p15 REAL, p50 REAL, p85 REAL,
  minimum REAL, maximum REAL, histogram BLOB NOT NULL, under INTEGER NOT NULL,
  over INTEGER NOT NULL, nonfinite INTEGER NOT NULL, zeros INTEGER NOT NULL,
  saturated REAL, dead REAL, gradient REAL,
  PRIMARY KEY(frame, probe)) WITHOUT ROWID;
"""
META = {
    "created": "2026-01-02T03:04:05+00:00",
    "status": "finished",
    "title": "A run of version 1",
    "settings": {"lr": 0.1},
    "pid": 1,
    "host": "elsewhere",
    "axis": {"limit": 100.0, "linear": 0.5, "bins": 256},
    "torch": "2.13.0",
}
COUNTS = [0] * 128 + [5, 3, 2] + [0] * 125
NAMES = (
    *("count", "mean", "std", "p15", "p50", "p85", "minimum", "maximum", "histogram"),
    *("under", "over", "nonfinite", "zeros", "saturated", "dead", "gradient"),
)
SIGNALS: dict[int, dict[str, Any]] = {
    probe: dict(zip(NAMES, values, strict=True))
    for probe, values in {
        0: (
            14,
            0.25,
            0.5,
            -0.25,
            0.125,
            0.75,
            -200.0,
            300.0,
            COUNTS,
            1,
            2,
            1,
            4,
            0.0625,
            0.25,
            1.5,
        ),
        1: (3, *[None] * 7, [0] * 256, 0, 0, 3, 0, None, None, None),  # nothing was finite
    }.items()
}
"""Probe → what the one frame has of it, by the names of the columns."""


def write(path: Path) -> Path:
    """Write one arm, two probes, one frame and one loss to ``path``."""
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA application_id={int.from_bytes(b'gamb', 'big')}; PRAGMA user_version=1; {TABLES}"
    )
    with connection:
        for key, value in META.items():
            connection.execute("INSERT INTO meta VALUES(?, ?)", (key, json.dumps(value)))
        connection.execute("INSERT INTO arm VALUES(0, 'model')")
        connection.execute("INSERT INTO probe VALUES(0, 0, 1, 'fc', 'z', 'tanh')")
        connection.execute("INSERT INTO probe VALUES(1, 0, 1, 'fc', 'activation', 'tanh')")
        connection.execute("INSERT INTO scalar VALUES(1, 0, 7, 'loss', 0.5)")
        connection.execute("INSERT INTO frame VALUES(1, 0, 7, 2.5)")
        for probe, signal in SIGNALS.items():
            values = [
                zlib.compress(struct.pack("<256I", *value)) if name == "histogram" else value
                for name, value in signal.items()
            ]
            connection.execute(
                f"INSERT INTO signal VALUES({', '.join('?' * 18)})", (1, probe, *values)
            )
    connection.close()
    return path
