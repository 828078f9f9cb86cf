"""A record as columns of numbers, for NumPy, pandas, CSV and Parquet."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.names import known
from gammabeta.signal.columns import numeric
from gammabeta.signal.paths import RecordError, file_path

if TYPE_CHECKING:
    from gammabeta.signal.run import Run

Table = dict[str, NDArray[Any]]

KINDS = ("signals", "scalars", "marks", "findings")


def tabulate(run: Run, kind: str) -> Table:
    """Return everything of one kind in ``run``, see `gammabeta.Run.table`."""
    kind = known("kind", kind, KINDS)
    arms = run.arms()
    if kind == "signals":
        return _signals(run, arms)
    rows: list[tuple[Any, ...]]
    if kind == "scalars":
        rows = [(arms.get(s.arm, ""), s.step, s.name, s.value) for s in run.scalars()]
        return _columns(("arm", "step", "name", "value"), (str, int, str, float), rows)
    if kind == "findings":
        names = ("code", "severity", "layer", "cause", "fix", "cost")
        rows = [
            (arms.get(f.arm, ""), f.step, *(getattr(f, name) for name in names))
            for f in run.findings()
        ]
        return _columns(("arm", "step", *names), (str, int, *[str] * len(names)), rows)
    rows = [(arms.get(m.arm, ""), m.step, m.text) for m in run.marks()]
    return _columns(("arm", "step", "text"), (str, int, str), rows)


def save(run: Run, path: str | os.PathLike[str], kind: str = "signals") -> Path:
    """Write a table of ``run`` to a new file, see `gammabeta.Run.save_table`."""
    path = file_path("path", path)
    if path.suffix not in (".csv", ".parquet"):
        raise RecordError(
            f"{path} ends with {path.suffix!r}; give a path that ends with .csv or .parquet"
        )
    if path.exists():
        raise RecordError(f"{path} exists; give another path, or move it away")
    table = tabulate(run, kind)
    try:
        if path.suffix == ".parquet":
            _write_parquet(table, path)
        else:
            _write_csv(table, path)
    except OSError as e:
        raise RecordError(f"{path} cannot be written: {e.strerror or e}") from e
    return path


def _signals(run: Run, arms: dict[int, str]) -> Table:
    probes = {probe.id: probe for probe in run.probes()}
    names = [each.name for each in numeric(run.fields)]
    keys = ("arm", "step", "seconds", "layer", "name", "stage")
    parts: dict[str, list[NDArray[Any]]] = {name: [] for name in (*keys, *names)}
    for frame in run.frames():
        here = [probes[i] for i in frame.probes.tolist()]
        same = np.ones(len(here), dtype=np.int64)
        parts["arm"].append(np.array([arms.get(frame.arm, "")] * len(here), dtype=object))
        parts["step"].append(frame.step * same)
        parts["seconds"].append(frame.seconds * same.astype(np.float64))
        parts["layer"].append(np.array([p.layer for p in here], dtype=np.int64))
        parts["name"].append(np.array([p.name for p in here], dtype=object))
        parts["stage"].append(np.array([p.stage for p in here], dtype=object))
        for name in names:
            parts[name].append(frame.values[name])
    return {name: np.concatenate(p) if p else np.array([]) for name, p in parts.items()}


def _columns(names: tuple[str, ...], kinds: tuple[type, ...], rows: list[tuple[Any, ...]]) -> Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    return {
        name: np.array(column, dtype=object if kind is str else kind)
        for name, kind, column in zip(names, kinds, columns, strict=True)
    }


def _write_csv(table: Table, path: Path) -> None:
    with path.open("x", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))


def _write_parquet(table: Table, path: Path) -> None:
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError as e:
        raise RecordError("Parquet needs PyArrow; pip install pyarrow, or give a .csv path") from e
    parquet.write_table(pyarrow.table(dict(table)), path)
