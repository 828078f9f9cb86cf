"""What a page is given of a run: plain JSON, the same live, exported and in a notebook.

Rows are short arrays, named once in ``columns``. Numbers that are not finite become null, which is
all JSON has for them (in the settings, text); a histogram is the index of its first non-empty bin
and the counts from there to the last.
"""

from __future__ import annotations

import math
from typing import Any

from gammabeta.signal.run import Frame, Run, Scalar
from gammabeta.signal.summary import SATURATION, Summary

FORMAT = "gammabeta-run"
VERSION = 1
SIGNAL_COLUMNS = (
    *("probe", "count", "mean", "std", "p15", "p50", "p85", "minimum", "maximum"),
    *("first", "counts", "under", "over", "nonfinite", "zeros", "saturated", "dead", "gradient"),
)
_DIGITS = 7  # float32 has no more to say

Json = dict[str, Any]


def snapshot(run: Run) -> Json:
    """Return everything recorded so far, with the cursor from which `increment` goes on."""
    status = run.status()  # before the frames: a run that has ended has all of them
    return {**_header(run, status), **increment(run, frame=0, scalar=0)}


def increment(run: Run, frame: int, scalar: int, most: int = -1) -> Json:
    """Return what was recorded after the given ids, at most ``most`` frames, and the new cursor.

    Probes and arms are complete each time: they are few, and a new frame may be their first.
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
        "frames": [_frame(each) for each in frames],
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
        "columns": SIGNAL_COLUMNS,
        "saturation": {
            name: [_number(low), _number(high)] for name, (low, high) in SATURATION.items()
        },
    }


def _plain(value: Any) -> Any:
    """Return a person's own words and settings as JSON in UTF-8 can hold them."""
    if isinstance(value, str):
        return value.encode(errors="replace").decode()  # half a surrogate pair, of an odd file name
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {_plain(key): _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _frame(frame: Frame) -> Json:
    return {
        "arm": frame.arm,
        "step": frame.step,
        "signals": [_signal(probe, summary) for probe, summary in frame.signals.items()],
    }


def _signal(probe: int, s: Summary) -> list[Any]:
    filled = s.histogram.nonzero().flatten()
    first, last = (int(filled[0]), int(filled[-1]) + 1) if filled.numel() else (0, 0)
    numbers = (s.mean, s.std, s.p15, s.p50, s.p85, s.minimum, s.maximum)
    return [
        *(probe, s.count, *map(_number, numbers)),
        *(first, s.histogram[first:last].tolist(), s.under, s.over, s.nonfinite, s.zeros),
        *map(_number, (s.saturated, s.dead, s.gradient)),
    ]


def _scalar(scalar: Scalar) -> list[Any]:
    return [scalar.arm, scalar.step, scalar.name, _number(scalar.value)]


def _number(value: float | None) -> float | None:
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{_DIGITS}g}")
