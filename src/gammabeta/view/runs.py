"""The runs that are shown: which files they are, and what is known of them by now."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gammabeta.signal.paths import SUFFIX, RecordError, file_path
from gammabeta.view.index import Index, Size
from gammabeta.view.reading import ReplacedError
from gammabeta.view.store import Store

_FRESH_SECONDS = 0.1
_RANK = re.compile(r"\.rank\d+$")


@dataclass(frozen=True)
class Shown:
    """What was known of some runs at a moment.

    Attributes:
        index: the runs; others may have added to it since.
        store: their signals.
        status: their status then.
        size: how much of the index there was then. If the runs had ended, it is everything.
    """

    index: Index
    store: Store
    status: str
    size: Size


class Runs:
    """Some runs, finished or still being recorded; their files may not exist yet.

    Args:
        paths: the files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._lock = threading.Lock()
        self._shown: Shown | None = None
        self._at = 0.0
        self._salt = ""

    def now(self) -> Shown:
        """Return what has been recorded until now, or a moment ago.

        Raises:
            RecordError: a file cannot be read. The next call begins from the start.
        """
        with self._lock:
            if self._shown is not None and time.monotonic() < self._at + _FRESH_SECONDS:
                return self._shown
            before, self._shown = self._shown, None
            index = Index(self.paths, self._salt) if before is None else before.index
            try:
                index.refresh()
            except ReplacedError:
                self._salt = secrets.token_hex(4)
                raise
            store = Store(index) if before is None else before.store
            self._shown = Shown(index, store, index.status, index.size)
            self._at = time.monotonic()
            return self._shown


def _is_a_run(path: Path) -> bool:
    """Return whether ``path`` is a file, but not that of another rank of the same run."""
    first = _RANK.sub("", path.stem)
    return path.is_file() and (first == path.stem or not path.with_name(first + SUFFIX).exists())


def located(paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return the files that ``paths`` name: files with or without .sqlite, and folders of them.

    Raises:
        RecordError: there is no such file, a folder has none, or two paths name the same file.
    """
    found: list[Path] = []
    for given in paths:
        path = file_path("path", given)
        if path.is_dir():
            inside = sorted(each for each in path.glob(f"*{SUFFIX}") if _is_a_run(each))
            if not inside:
                raise RecordError(f"{path} is a folder without runs ({SUFFIX} files); give another")
            found += inside
        else:
            longer = path.with_name(path.name + SUFFIX) if path.name else path
            found.append(longer if not path.exists() and longer.exists() else path)
    seen: dict[Path, Path] = {}
    for path in found:
        same = seen.setdefault(path.resolve(), path)
        if same is not path:
            named = str(path) if same == path else f"{same} and {path}"
            raise RecordError(f"{named}: the same run is given twice; give each run once")
    return tuple(found)
