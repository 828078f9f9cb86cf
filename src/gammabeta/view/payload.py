"""What a page is told about runs: plain JSON, the same for the live and the exported page.

``run.json`` describes everything but the signals; of these the page asks for columns and shapes
(`gammabeta.view.store`). A number that is not finite becomes null, because JSON has no other word
for it (in the settings it becomes text). No name of a run is ever a key, except in settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from gammabeta.signal import schema
from gammabeta.signal.found import RecordedFinding
from gammabeta.signal.summary import SATURATION
from gammabeta.view.index import Index, Size
from gammabeta.view.points import thinned
from gammabeta.view.runs import Shown

FORMAT = "gammabeta-run"
VERSION = 3
_DIGITS = 7  # the precision of float32
_DEEPEST = 24  # levels of settings that are shown
_LONGEST = 20_000  # characters of a text that are shown
_MOST_POINTS = 20_000  # of a curve; a picture of more would be the same

Json = dict[str, Any]


def snapshot(shown: Shown) -> Json:
    """Return everything recorded so far, with the cursor from which `increment` continues."""
    index = shown.index
    readings = index.readings
    single = readings[0] if len(readings) == 1 else None
    settings = dict(single.settings) if single else {}
    note = settings.pop("note", "")
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": plain(title(index)),
        "note": plain(note) if isinstance(note, str) else "",
        "created": min(plain(each.created) for each in readings),
        "status": plain(shown.status),
        "settings": plain(settings),
        "axis": plain(index.axis),
        "saturation": {
            name: [_number(low), _number(high)] for name, (low, high) in SATURATION.items()
        },
        "fields": _fields(index),
        "runs": [
            {
                "name": plain(name),
                "title": plain(each.title),
                "status": plain(each.status),
                "created": plain(each.created),
                "settings": plain(each.settings),
            }
            for name, each in zip(index.names, readings, strict=True)
        ],
        **increment(index, Size(), shown.size),
    }


def title(index: Index) -> str:
    """Return the title of the page."""
    return index.readings[0].title if len(index.readings) == 1 else " · ".join(index.names)


def increment(index: Index, after: Size, now: Size) -> Json:
    """Return what was recorded after ``after``, and the new cursor.

    All arms are returned each time, because their names may change when there are more of them.

    Args:
        index: the runs.
        after: what the page has.
        now: how much of ``index`` is returned, all together.
    """
    frames = slice(after.frames, now.frames)
    curves = index.scalars.curves(after.scalars, now.scalars)
    names = index.arm_names()
    return {
        "arms": [
            {"id": arm.id, "name": plain(name), "run": arm.run}
            for arm, name in zip(index.arms, names, strict=False)
        ],
        "probes": [
            {
                "id": probe.id,
                "arm": probe.arm,
                "layer": probe.layer,
                "name": plain(probe.name),
                "stage": plain(probe.stage),
                "activation": plain(probe.activation),
            }
            for probe in index.probes[after.probes : now.probes]
        ],
        "frames": {
            "arm": index.arm[frames],
            "step": index.step[frames],
            "seconds": [_number(each) for each in index.seconds[frames]],
        },
        "scalars": [
            {
                "arm": index.curves[curve][0],
                "name": plain(index.curves[curve][1]),
                "steps": steps.tolist(),
                "values": [_number(each) for each in values.tolist()],
            }
            for curve, (steps, values) in (
                (number, thinned(curve, _MOST_POINTS)) for number, curve in curves.items()
            )
        ],
        "marks": [
            {"arm": arm, "step": step, "text": plain(text)}
            for arm, step, text in index.marks[after.marks : now.marks]
        ],
        "findings": [_finding(each) for each in index.findings[after.findings : now.findings]],
        "cursor": cursor(index, now),
    }


_MOST_LAYERS = 64  # of a finding, that are named


def _finding(found: RecordedFinding) -> Json:
    texts = ("severity", "code", "name", "layer", "cause", "fix", "cost")
    return {
        "arm": found.arm,
        "step": found.step,
        **{key: plain(getattr(found, key)) for key in texts},
        "layers": [plain(each) for each in found.layers[:_MOST_LAYERS]],
        "numbers": [[plain(key), _shown(value)] for key, value in found.numbers.items()],
    }


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.4g}"
    return str(plain(value if isinstance(value, str) else str(value)))


def cursor(index: Index, size: Size) -> str:
    """Return a text that stands for ``size``."""
    counts = (size.frames, size.scalars, size.marks, size.probes, size.findings)
    return ".".join([index.epoch, *map(str, counts)])


def read_cursor(text: str) -> tuple[str, Size]:
    """Return the epoch and the size that a `cursor` stands for.

    Raises:
        ValueError: it is none.
    """
    parts = text.split(".")
    if len(parts) != 6 or not all(part.isascii() and part.isdigit() for part in parts[1:]):
        raise ValueError(text)
    if any(len(part) > 15 for part in parts):
        raise ValueError(text)
    return parts[0], Size(*map(int, parts[1:]))


def encoded(data: Any) -> bytes:
    """Return ``data`` as JSON in UTF-8."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


def plain(value: Any, depth: int = 0) -> Any:
    """Replace in names and settings what JSON in UTF-8 cannot represent, and what has no end."""
    if isinstance(value, str):
        if len(value) > _LONGEST:
            value = value[:_LONGEST] + "…"
        return value.encode(errors="replace").decode()  # lone surrogates, as in some file names
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > 2**1023:
        return "a number too large to be shown"
    if isinstance(value, (dict, list)) and depth == _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {plain(key): plain(each, depth + 1) for key, each in value.items()}
    return [plain(each, depth + 1) for each in value] if isinstance(value, list) else value


def numbers(values: Sequence[float] | None) -> list[float | None] | None:
    """Return numbers as JSON can represent them."""
    return None if values is None else [_number(each) for each in values]


def _fields(index: Index) -> list[Json]:
    recorded = {name for reading in index.readings for name in reading.fields}
    return [
        {
            "name": each.name,
            "label": each.label,
            "description": each.description,
            "unit": each.unit,
            "show": each.show,
            "optional": each.missing == "none",
        }
        for each in schema.FIELDS
        if each.label and each.name in recorded
    ]


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
