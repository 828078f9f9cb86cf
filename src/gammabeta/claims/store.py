"""Small results on disk: whole or not there at all, and unreadable ones are as good as none."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` to ``path`` as JSON, so that a kill at any moment leaves old or new.

    Raises:
        OSError: it cannot be written (a full disk, say); what was there is still there.
        TypeError: it holds what JSON cannot.
    """
    keep_text(path, json.dumps(value, indent=1))


def keep_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path``, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)  # mkstemp's 0600 would keep it from the person's colleagues
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise


def kept(path: Path) -> dict[str, Any] | None:
    """Return what `keep` wrote to ``path``; None if nothing did, or it cannot be read as that."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
