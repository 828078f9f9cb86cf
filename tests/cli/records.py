"""What a command left behind: the run in a record, and the run in a page."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

from gammabeta.signal import Run
from gammabeta.view.payload import snapshot
from tests.cli.command import Shell


def recorded(path: Path) -> Any:
    """A record, as a page is given it."""
    with Run(path) as run:
        return json.loads(json.dumps(snapshot(run)))


def shown(path: Path) -> Any:
    """The run a page holds."""
    found = re.search(r'<script[^>]* id="run">([^<]*)</script>', path.read_text("utf-8"))
    assert found is not None
    return json.loads(zlib.decompress(base64.b64decode(found[1])))


def curve(run: Any, arm: int, name: str) -> dict[int, float]:
    """Step → value of a scalar of an arm."""
    return {step: value for a, step, n, value in run["scalars"] if (a, n) == (arm, name)}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder: name → content, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def refused(shell: Shell, folder: Path, *args: object) -> str:
    """Run what should be refused; nothing may be created or changed."""
    before = tree(folder)
    complaint = shell(*args, folder=folder).refused()
    assert tree(folder) == before
    return complaint
