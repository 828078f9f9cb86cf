"""The folder of a run: its lock, and its log with one JSON object per line."""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from gammabeta.atomic_files import write_whole

LOG = "log.jsonl"
_LOCK = "lock"


class Held:
    """Context manager that locks a folder for this process. The end of the process frees it.

    Args:
        folder: folder of the run; created if missing.

    Raises:
        ValueError: another process holds it, or it cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        import fcntl

        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as e:
            raise ValueError(f"out={folder} cannot be used: {e.strerror or e}") from e
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            holder = os.read(self._handle, 32).decode("ascii", "replace").strip()
            os.close(self._handle)
            raise ValueError(
                f"out={folder} is in use by process {holder or 'unknown'}; wait for it, or give "
                "another folder"
            ) from e
        with contextlib.suppress(OSError):  # a full disk; the lock holds without the number
            os.ftruncate(self._handle, 0)
            os.write(self._handle, f"{os.getpid()}\n".encode())

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)


class Journal:
    """The log of a run. Each line is written to the file immediately.

    If writing fails, for example on a full disk, it warns once and stops logging. The run goes on.

    Args:
        folder: folder of the run.
        after: lines of later steps are dropped, because a run resumed from step ``after`` repeats
            them.
    """

    def __init__(self, folder: Path, after: int = 0) -> None:
        path = folder / LOG
        kept = [row for row in read_log(path) if row["step"] <= after]
        write_whole(path, "".join(map(_line, kept)))
        # Unbuffered: what could not be written must not be tried again when it is closed.
        self._file: IO[bytes] | None = open(path, "ab", buffering=0)  # noqa: SIM115

    def add(self, **row: Any) -> None:
        """Write a line, which must have a ``step``. Non-finite numbers are written as null."""
        if self._file is None:
            return
        try:
            self._file.write(_line(row).encode())
        except OSError as e:
            self.close()
            warnings.warn(
                f"{LOG} ends before step {row['step']}: {e.strerror or e}",
                RuntimeWarning,
                stacklevel=2,
            )

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a log, skipping incomplete ones."""
    if not path.exists():
        return
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            yield row


def _line(row: dict[str, Any]) -> str:
    sound = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }
    return json.dumps(sound) + "\n"
