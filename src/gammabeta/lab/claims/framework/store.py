"""Small results on disk: whole or not there at all, and unreadable ones are as good as none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gammabeta.atomic_files import write_whole


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """Write ``value`` to ``path`` as JSON, so that a kill at any moment leaves old or new.

    Raises:
        OSError: it cannot be written (a full disk, say); what was there is still there.
        TypeError: it holds what JSON cannot.
    """
    write_whole(path, json.dumps(value, indent=1))


def kept(path: Path) -> dict[str, Any] | None:
    """Return what `keep` wrote to ``path``; None if nothing did, or it cannot be read as that."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
