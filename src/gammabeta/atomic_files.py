"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

_UNFINISHED = ".writing"


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Write ``content`` to ``path``, making its folder; a kill at any moment leaves old or new.

    It is written under another name, flushed to the disk, and renamed. Text is written as UTF-8.

    Raises:
        OSError: it cannot be written (a full disk, say); what was there is still there.
    """
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_UNFINISHED}")
    try:
        with open(scratch, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        if isinstance(e, OSError):  # nobody knows the other name
            e.filename, e.filename2 = str(path), None
        raise
    _sync_folder(path.parent)


def tidy(folder: Path) -> None:
    """Delete what a process that was killed had begun to write into ``folder``."""
    for path in folder.glob(f"*{_UNFINISHED}"):
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the disk know of the new name, too."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # folders cannot be opened everywhere
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
