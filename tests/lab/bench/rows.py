"""Rows of results, written by hand."""

from __future__ import annotations

from typing import Any

from gammabeta.lab.bench.inputs import bytes_moved
from gammabeta.lab.bench.results import Row, Setting

SETTING = Setting(
    "2026-01-02 03:04", "Linux x86_64 2 cores", "a CPU", 2, "reuse", "2.13.0", "0.1.0", "abc"
)


def timed(what: str, who: str, seconds: float, shape: str = "32x64x56x56", **changes: Any) -> Row:
    """A row of the norms' benchmark."""
    row = {
        "case": "resnet-50",
        "dtype": "fp32",
        "layout": "nchw",
        "unit": "s",
        "q20": seconds,
        "q50": seconds,
        "q80": seconds,
    } | changes
    sizes = tuple(map(int, shape.split("x")))
    moved = bytes_moved(what, sizes, f"{row['dtype']}-{row['layout']}")
    return Row(SETTING, "norm", shape=shape, what=what, who=who, bytes=moved, **row)


def formed(what: str, who: str, value: float, dtype: str = "fp32") -> Row:
    """A row of the networks' benchmarks."""
    return Row(
        SETTING,
        "step" if what == "step" else "memory",
        case="a net",
        dtype=dtype,
        layout="channels_last",
        shape="64x3x32x32",
        what=what,
        who=who,
        unit="s" if what == "step" else "bytes",
        q20=value,
        q50=value,
        q80=value,
    )
