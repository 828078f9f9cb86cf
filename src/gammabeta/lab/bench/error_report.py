"""What the rows of `gammabeta.lab.bench.error` say."""

from __future__ import annotations

from collections.abc import Sequence

from gammabeta.lab.bench.error import OF
from gammabeta.lab.bench.inputs import FORMATS
from gammabeta.lab.bench.norm_report import LAYOUTS
from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.table import table

LARGE = ("fp32-channels_last", "32x64x112x112")
LARGE_GOAL = 2e-6
"""Most the error of y and ∂x may be on the case `LARGE`."""

Errors = dict[str, dict[str, float]]


def by_case(rows: Sequence[Row]) -> dict[tuple[str, str], Errors]:
    """(format, shape) → what → who → error."""
    found: dict[tuple[str, str], Errors] = {}
    for row in rows:
        found.setdefault((row.format, row.shape), {}).setdefault(row.what, {})[row.who] = row.q50
    return found


def shapes_table(rows: Sequence[Row], name: str) -> str:
    """Lay out one format: a line a shape, our errors, torch's best, and whether bits are alike."""
    heads = ["shape", *(f"{of} {who}" for of in OF for who in ("ours", "torch")), "same bits"]
    lines = []
    for (fmt, shape), errors in by_case(rows).items():
        if fmt == name:
            cells = [f"{e:.1e}" for of in OF for e in _pair(errors[f"error {of}"])]
            same = all(by["gammabeta"] == 1 for what, by in errors.items() if _is_bits(what))
            lines.append([shape.replace("x", "×"), *cells, "yes" if same else "no"])
    return table(heads, lines)


def line(rows: Sequence[Row]) -> str:
    """One case in one line."""
    ((name, shape), errors) = next(iter(by_case(rows).items()))
    ours, torchs = _pair(errors["error y"])
    return f"{LAYOUTS[name]} {shape.replace('x', '×')}  y: {ours:.1e}, torch {torchs:.1e}"


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge ``rows`` by the goals."""
    cases = by_case(rows)
    found = []
    for name in FORMATS:
        worst = max(
            (
                (_ratio(*_pair(errors[f"error {of}"])), f"{of}, {shape.replace('x', '×')}")
                for (fmt, shape), errors in cases.items()
                if fmt == name
                for of in OF
            ),
            default=None,
        )
        if worst:
            label = f"{LAYOUTS[name]}: worst error ÷ torch's best layout's"
            found.append(Verdict(label, worst[0], 1.0, False, note=worst[1]))
    if LARGE in cases:
        errors = cases[LARGE]
        ours, theirs = (
            max(errors[f"error {of}"][who] for of in ("y", "∂x"))
            for who in ("gammabeta", "torch channels_last")
        )
        label = f"{LAYOUTS[LARGE[0]]} {LARGE[1].replace('x', '×')}: error of y, ∂x"
        note = f"torch: {theirs:.1e}"
        found.append(Verdict(label, ours, LARGE_GOAL, False, unit="", note=note))
    bits = [row.q50 for row in rows if _is_bits(row.what)]
    if bits:
        what = next(row.what for row in rows if _is_bits(row.what))
        label = f"cases with the same {what}"
        found.append(Verdict(label, 100 * sum(bits) / len(bits), 100, True, unit=" %"))
    return found


def _pair(errors: dict[str, float]) -> tuple[float, float]:
    """Ours, and the smallest of torch's."""
    return errors["gammabeta"], min(e for who, e in errors.items() if who != "gammabeta")


def _ratio(ours: float, theirs: float) -> float:
    return ours / theirs if theirs else 1.0 if ours == 0 else float("inf")


def _is_bits(what: str) -> bool:
    return what.startswith("bits")
