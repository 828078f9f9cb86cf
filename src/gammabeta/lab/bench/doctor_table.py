"""The results of `gammabeta bench doctor`: a file with one row for each case."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import asdict, fields
from pathlib import Path

from gammabeta.atomic_files import write_whole
from gammabeta.lab.bench.doctor_case import KINDS, Case
from gammabeta.lab.bench.results import here

COLUMNS = [field.name for field in fields(Case)]

_FLAGS = ("found", "layer", "fix")
_COUNTS = ("extra", "alarms", "passes")


class Cases:
    """A CSV file of cases.

    Args:
        path: of the file.

    Raises:
        ValueError: there is a file, but not one of cases.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cases = {case.key: case for case in read(path)} if path.exists() else {}
        now = here("default")
        self._made = f"{now.date[:10]}, torch {now.torch}, gammabeta {now.gammabeta} {now.commit}"

    @property
    def cases(self) -> list[Case]:
        """All cases, by kind and name."""
        return sorted(self._cases.values(), key=lambda c: (KINDS.index(c.kind), c.name, c.tool))

    def add(self, case: Case) -> None:
        """Add ``case`` in place of an older one of the same name, and write the file."""
        case.made = f"{self._made}, {case.made}" if case.made else self._made
        self._cases[case.key] = case
        self.write()

    def keep(self, keys: Collection[tuple[str, str, str]]) -> None:
        """Drop all cases that are not among ``keys``: their scripts are gone."""
        self._cases = {key: case for key, case in self._cases.items() if key in keys}

    def write(self) -> None:
        """Write the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(_flat, self.cases))
        write_whole(self.path, text.getvalue())


def read(path: Path) -> list[Case]:
    """Return the cases in a file.

    Raises:
        ValueError: it is not a file of cases.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path} is not a file of gammabeta bench doctor: its columns differ")
        return [_case(line) for line in reader]


def _flat(case: Case) -> dict[str, object]:
    flat = asdict(case)
    flat |= {name: int(flat[name]) for name in _FLAGS}
    flat["seconds"] = f"{case.seconds:.3g}"
    return flat


def _case(line: dict[str, str]) -> Case:
    flags = {name: line[name] == "1" for name in _FLAGS}
    counts = {name: int(line[name]) for name in _COUNTS}
    texts = {name: line[name] for name in ("kind", "name", "tool", "code", "said", "note", "made")}
    return Case(**texts, **flags, **counts, seconds=float(line["seconds"]))  # type: ignore[arg-type]
