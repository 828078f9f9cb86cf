"""The data of a run that a page gets: plain JSON, the same for the live and the exported page.

A signal is a row of values; ``columns`` in the header names them, and ``fields`` says how to list
them. A number that is not finite becomes null, because JSON has no other word for it (in the
settings it becomes text). A histogram becomes two values: ``first``, the index of its first
non-empty bin, and ``counts``, from there to the last non-empty bin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gammabeta.signal.run import Frame, Run, Scalar
from gammabeta.signal.schema import Field, Summary
from gammabeta.signal.summary import SATURATION

FORMAT = "gammabeta-run"
VERSION = 2
_DIGITS = 7  # the precision of float32

Json = dict[str, Any]


def snapshot(run: Run) -> Json:
    """Return everything recorded so far, with the cursor from which `increment` continues."""
    status = run.status()  # read before the frames: if the run has ended, the frames are complete
    return {**_header(run, status), **increment(run, frame=0, scalar=0)}


def increment(run: Run, frame: int, scalar: int, most: int = -1) -> Json:
    """Return what was recorded after the given ids, and the new cursor.

    All probes and arms are returned each time: they are few, and a frame may be the first of one.

    Args:
        run: the run.
        frame: id of the last frame that the page has.
        scalar: id of the last scalar that the page has.
        most: maximum number of frames; −1 for all.
    """
    frames = list(run.frames(after=frame, most=most))
    scalars = run.scalars(after=scalar)
    return {
        "arms": [{"id": id_, "name": name} for id_, name in run.arms().items()],
        "probes": [
            {
                "id": probe.id,
                "arm": probe.arm,
                "layer": probe.layer,
                "name": probe.name,
                "stage": probe.stage,
                "activation": probe.activation,
            }
            for probe in run.probes()
        ],
        "frames": [_frame(each, run.fields) for each in frames],
        "scalars": [_scalar(each) for each in scalars],
        "cursor": {
            "frame": frames[-1].id if frames else frame,
            "scalar": scalars[-1].id if scalars else scalar,
        },
    }


def _header(run: Run, status: str) -> Json:
    settings = run.settings
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": _plain(run.title or run.path.stem),
        "note": _plain(str(settings.pop("note", ""))),
        "created": run.meta.get("created", ""),
        "status": status,
        "settings": _plain(settings),
        "axis": run.meta.get("axis", {}),
        "columns": ["probe", *(name for each in run.fields for name in _columns(each))],
        "fields": [
            {
                "name": each.name,
                "label": each.label,
                "description": each.description,
                "unit": each.unit,
                "show": each.show,
                "optional": each.missing == "none",
            }
            for each in run.fields
            if each.label
        ],
        "saturation": {
            name: [_number(low), _number(high)] for name, (low, high) in SATURATION.items()
        },
    }


def _plain(value: Any) -> Any:
    """Replace in names and settings what JSON in UTF-8 cannot represent."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # lone surrogates, as in some file names
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _frame(frame: Frame, fields: Sequence[Field]) -> Json:
    return {
        "arm": frame.arm,
        "step": frame.step,
        "signals": [_signal(probe, summary, fields) for probe, summary in frame.signals.items()],
    }


def _columns(field: Field) -> tuple[str, ...]:
    return ("first", "counts") if field.sql == "BLOB" else (field.name,)


def _signal(probe: int, summary: Summary, fields: Sequence[Field]) -> list[Any]:
    row: list[Any] = [probe]
    for field in fields:
        value = getattr(summary, field.name)
        if field.sql == "REAL":
            row.append(_number(value))
        elif field.sql == "INTEGER":
            row.append(value)
        else:
            row += _trimmed(value)
    return row


def _trimmed(histogram: Tensor) -> tuple[int, list[int]]:
    filled = histogram.nonzero().flatten()
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.numel() else (0, 0)
    return first, histogram[first:last].tolist()


def _scalar(scalar: Scalar) -> list[Any]:
    return [scalar.arm, scalar.step, scalar.name, _number(scalar.value)]


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
