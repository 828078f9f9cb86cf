"""The one form of a benchmark's results: rows of a CSV file that say how they came about."""

from __future__ import annotations

import csv
import datetime
import math
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import gammabeta


@dataclass(frozen=True)
class Setting:
    """Where and how a benchmark ran; the first columns of every row."""

    date: str
    machine: str
    cpu: str
    threads: int
    allocator: str
    torch: str
    gammabeta: str
    commit: str

    def __str__(self) -> str:
        return (
            f"{self.cpu}, {self.machine}; {self.threads} threads; allocator {self.allocator}; "
            f"torch {self.torch}, gammabeta {self.gammabeta}"
            + (f" at {self.commit}" if self.commit else "")
        )


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        setting: where and how.
        bench: ``"norm"``, ``"step"``, ``"memory"`` or ``"error"``.
        case: the lists of shapes it counts for, or the network.
        dtype: of the data.
        layout: ``"nchw"`` or ``"channels_last"``.
        shape: of the input, ``"32x64x56x56"``.
        what: what was measured: an operation, a step, a peak.
        who: who was measured.
        unit: ``"s"``, ``"bytes"`` or ``"1"``.
        q20, q50, q80: quantiles; NaN where ``who`` took no part.
        rounds, calls: samples, and calls a sample.
        copy: seconds of ``y.copy_(x)`` on the same tensor (median); NaN where there is none.
        bytes: that must move; 0 where that says nothing.
        note: why ``who`` took no part, or what else there is to say.
    """

    setting: Setting
    bench: str
    case: str
    dtype: str
    layout: str
    shape: str
    what: str
    who: str
    unit: str
    q20: float
    q50: float
    q80: float
    rounds: int = 1
    calls: int = 1
    copy: float = math.nan
    bytes: int = 0
    note: str = ""

    @property
    def format(self) -> str:
        """dtype and layout in one word, as `gammabeta.lab.bench.inputs.FORMATS` has them."""
        return f"{self.dtype}-{self.layout}"


_SETTING = {field.name: field.type for field in fields(Setting)}
_ROW = {field.name: field.type for field in fields(Row) if field.name != "setting"}
COLUMNS = [*_SETTING, *_ROW]
_READ = {"str": str, "int": int, "float": float}


class Table:
    """A CSV file that grows row by row, so that a run that is broken off keeps what it has.

    The file is made at the first row; until then an older one stays as it is.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder; the results need that name for a file")
        self.path = path
        self.rows: list[Row] = []

    def add(self, rows: Iterable[Row]) -> None:
        """Append ``rows``."""
        new = list(rows)
        with self.path.open("a" if self.rows else "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if not self.rows:
                writer.writeheader()
            writer.writerows(map(_flat, new))
        self.rows += new


def _flat(row: Row) -> dict[str, object]:
    flat = asdict(row)
    flat = flat.pop("setting") | flat
    return {
        name: "" if isinstance(value, float) and math.isnan(value) else _short(value)
        for name, value in flat.items()
    }


def _short(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value


def read(path: Path) -> list[Row]:
    """Return the rows of a file of results.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path} is not a file of gammabeta bench: its columns differ")
        return [_row(line) for line in reader]


def _row(line: dict[str, str]) -> Row:
    def value(name: str, kind: str) -> object:
        text = line[name]
        return math.nan if kind == "float" and not text else _READ[kind](text)

    setting = Setting(**{name: value(name, str(kind)) for name, kind in _SETTING.items()})  # type: ignore[arg-type]
    rest = {name: value(name, str(kind)) for name, kind in _ROW.items()}
    return Row(setting, **rest)  # type: ignore[arg-type]


def here(allocator: str) -> Setting:
    """Describe this process: machine, versions, threads as they are set now.

    Args:
        allocator: what `gammabeta.lab.bench.allocator.set_allocator` said.

    Example:
        >>> here("default").gammabeta == gammabeta.__version__
        True
    """
    return Setting(
        date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M"),
        machine=f"{platform.system()} {platform.machine()} {os.cpu_count()} cores",
        cpu=f"{_cpu()} ({torch.backends.cpu.get_cpu_capability()})",
        threads=torch.get_num_threads(),
        allocator=allocator,
        torch=torch.__version__,
        gammabeta=gammabeta.__version__,
        commit=_commit(),
    )


def _cpu() -> str:
    """The processor's name, as well as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _commit() -> str:
    """The commit of the code that runs, with ``+`` if files differ from it; empty if unknown."""
    source = Path(gammabeta.__file__).parent

    def git(*args: str) -> str:
        return subprocess.run(
            ["git", "-C", str(source), *args], capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if not git("ls-files", "--", "__init__.py"):
            return ""  # installed into somebody else's repository
        return git("rev-parse", "--short=12", "HEAD") + (
            "+" if git("status", "--porcelain", "--", str(source)) else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
