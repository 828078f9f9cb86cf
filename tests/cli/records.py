"""What a command left behind: the run in a record, and the run in a page."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

from gammabeta.signal import Run
from gammabeta.signal.columns import numeric
from gammabeta.view.payload import encoded, snapshot
from gammabeta.view.runs import Runs
from tests.cli.command import Shell


def recorded(*paths: Path) -> Any:
    """Records, as a page is told of them."""
    return json.loads(encoded(snapshot(Runs(paths).now())))


def shown(path: Path) -> Any:
    """The same of the runs that a page holds."""
    found = re.search(r'<script[^>]* id="run">([^<]*)</script>', path.read_text("utf-8"))
    assert found is not None
    container = base64.b64decode(found[1])
    assert container[:8] == b"gammabt3"
    (length,) = struct.unpack_from("<I", container, 8)
    index = json.loads(zlib.decompress(container[12 : 12 + length]))
    assert index.pop("packed")["columns"].keys() >= ({"mean"} if index["frames"]["step"] else set())
    return index


def moments(run: Any) -> list[tuple[int, int, float]]:
    """(arm, step, seconds) of each frame."""
    return list(zip(*(run["frames"][key] for key in ("arm", "step", "seconds")), strict=True))


def signals(path: Path) -> list[tuple[int, int, dict[int, dict[str, Any]]]]:
    """(arm, step, probe → field → value) of each frame."""
    found = []
    with Run(path) as run:
        for frame in run.frames():
            values = {
                probe: {each.name: getattr(summary, each.name) for each in numeric(run.fields)}
                for probe, summary in frame.signals.items()
            }
            found.append((frame.arm, frame.step, values))
    return found


def curve(run: Any, arm: int, name: str) -> dict[int, float]:
    """Step → value of a scalar of an arm."""
    for each in run["scalars"]:
        if (each["arm"], each["name"]) == (arm, name):
            return dict(zip(each["steps"], each["values"], strict=True))
    return {}


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
