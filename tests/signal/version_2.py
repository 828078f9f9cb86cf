"""A file of format version 2 in literal SQL, written without the code under test.

Format 2 is format 1 with a description of its columns in ``meta``.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.signal import version_1

META = {**version_1.META, "title": "A run of version 2"}
KINDS = {
    "count": ("INTEGER", "never"),
    "mean": ("REAL", "nan"),
    "std": ("REAL", "nan"),
    "p15": ("REAL", "nan"),
    "p50": ("REAL", "nan"),
    "p85": ("REAL", "nan"),
    "minimum": ("REAL", "nan"),
    "maximum": ("REAL", "nan"),
    "histogram": ("BLOB", "never"),
    "under": ("INTEGER", "never"),
    "over": ("INTEGER", "never"),
    "nonfinite": ("INTEGER", "never"),
    "zeros": ("INTEGER", "never"),
    "saturated": ("REAL", "none"),
    "dead": ("REAL", "none"),
    "gradient": ("REAL", "none"),
}
"""Column → its SQL type, and what stands for NULL."""

STEPS = (7, 9)
"""Two frames, which are alike but for the step and the seconds."""


def write(
    path: Path, order: Sequence[str] = tuple(KINDS), more: Sequence[str] = (), version: int = 2
) -> Path:
    """Write one arm, two probes, two frames and a loss each to ``path``.

    Args:
        path: the file.
        order: the columns that it has, in their order.
        more: REAL columns that no version knows; they hold 1.
        version: number of the format.
    """
    connection = sqlite3.connect(path)
    tables, _, _ = version_1.TABLES.partition("CREATE TABLE signal")
    columns = "".join(
        f"{name} {KINDS[name][0]}{' NOT NULL' if KINDS[name][1] == 'never' else ''}, "
        for name in order
    ) + "".join(f"{name} REAL, " for name in more)
    connection.executescript(
        f"PRAGMA application_id={int.from_bytes(b'gamb', 'big')}; PRAGMA user_version={version};"
        f"{tables} CREATE TABLE signal(frame INTEGER NOT NULL REFERENCES frame(id), "
        f"probe INTEGER NOT NULL REFERENCES probe(id), {columns}"
        "PRIMARY KEY(frame, probe)) WITHOUT ROWID;"
    )
    fields = [
        {
            "name": name,
            "sql": sql,
            "missing": missing,
            "description": name,
            "unit": "",
            "label": "",
            "show": "number",
        }
        for name, (sql, missing) in {**KINDS, **dict.fromkeys(more, ("REAL", "nan"))}.items()
        if name in (*order, *more)
    ]
    with connection:
        for key, value in {**META, "fields": fields}.items():
            connection.execute("INSERT INTO meta VALUES(?, ?)", (key, json.dumps(value)))
        connection.execute("INSERT INTO arm VALUES(0, 'model')")
        connection.execute("INSERT INTO probe VALUES(0, 0, 1, 'fc', 'z', 'tanh')")
        connection.execute("INSERT INTO probe VALUES(1, 0, 1, 'fc', 'activation', 'tanh')")
        for frame, step in enumerate(STEPS, 1):
            connection.execute(
                "INSERT INTO scalar VALUES(?, 0, ?, 'loss', ?)", (frame, step, 1 / step)
            )
            connection.execute("INSERT INTO frame VALUES(?, 0, ?, ?)", (frame, step, step / 2))
            for probe, signal in version_1.SIGNALS.items():
                values: list[Any] = [
                    zlib.compress(struct.pack("<256I", *signal[name]), 1)
                    if name == "histogram"
                    else signal[name]
                    for name in order
                ]
                values += [1.0] * len(more)
                connection.execute(
                    f"INSERT INTO signal VALUES({', '.join('?' * (2 + len(values)))})",
                    (frame, probe, *values),
                )
    connection.close()
    return path
