"""What the rows of `gammabeta.lab.bench.net` say: a line a case, and the goals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gammabeta.lab.bench.net_models import CONVOLUTIONAL
from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.timing import geometric_mean
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.table import table

BARE_GOALS = {("fp32", "both layouts"): 1.06, ("bf16", "channels_last"): 1.08}
"""Most that a step converted may cost of one without norms: a geometric mean of networks."""

TORCH_GOAL = 1.01
"""Most that a converted network may cost of one with torch's norms, each of them."""

MODES = ("training", "evaluation")

_COLUMNS = (
    *(("converted", "torch"), ("unfused", "torch"), ("lean", "torch"), ("compile", "torch")),
    *(("converted", "bare"), ("torch", "bare")),
)
_COUNTED = {f"pytorchcv:{name}" for name in CONVOLUTIONAL}

Case = tuple[str, str, str, str]
"""Network, layout, dtype, mode."""


def by_case(rows: Sequence[Row]) -> dict[Case, dict[tuple[str, str], Row]]:
    """Case → (variant, base) → row of its ratio; base ``""`` has the row of its seconds."""
    found: dict[Case, dict[tuple[str, str], Row]] = {}
    for row in rows:
        mode, _, base = row.what.partition(" ÷ ")
        if row.bench == "net" and mode in MODES and not math.isnan(row.q50):
            found.setdefault((row.case, row.layout, row.dtype, mode), {})[row.who, base] = row
    return found


def networks_table(rows: Sequence[Row]) -> str:
    """Lay out ``rows``: a line a case; a ratio is the median over the rounds."""
    cases = by_case(rows)
    columns = [column for column in _COLUMNS if any(column in case for case in cases.values())]
    heads = ["network", "input", "layout", "dtype", "mode", "torch, ms"]
    lines = []
    for (name, layout, dtype, mode), case in cases.items():
        shape = next(iter(case.values())).shape.replace("x", "×")
        torch_ms = f"{1e3 * case['torch', ''].q50:.1f}" if ("torch", "") in case else "–"
        ratios = [f"{case[at].q50:.3f}" if at in case else "–" for at in columns]
        lines.append([name, shape, layout, dtype, mode, torch_ms, *ratios])
    return table([*heads, *(f"{who}÷{base}" for who, base in columns)], lines, left=5)


def line(rows: Sequence[Row]) -> str:
    """Summarize one case in one line."""
    cases = by_case(rows)
    if not cases:
        return f"{rows[0].case}: {rows[0].note}"
    ((name, layout, dtype, mode), case) = next(iter(cases.items()))
    parts = [
        f"{who}÷{base} {_interval(case[who, base])}"
        for who, base in _COLUMNS
        if (who, base) in case
    ]
    return "  ".join([f"{name} {layout} {dtype} {mode}:", *parts])


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge ``rows`` by the goals."""
    cases = by_case(rows)
    found = []
    for (dtype, layouts), goal in BARE_GOALS.items():
        for mode in MODES[:1]:
            counted = {
                at: case
                for at, case in cases.items()
                if at[0] in _COUNTED
                and at[2:] == (dtype, mode)
                and layouts in ("both layouts", at[1])
            }
            ratios = _ratios(counted, "converted", "bare")
            theirs = geometric_mean(_ratios(counted, "torch", "bare"))
            if any(at[2:] == (dtype, mode) for at in cases):
                total = len(_COUNTED) * (2 if layouts == "both layouts" else 1)
                note = f"{len(ratios)} of {total} cases; torch's norms: {_text(theirs)}"
                label = f"{mode}, {dtype}, {layouts}: converted ÷ bare, geometric mean"
                found.append(
                    Verdict(label, geometric_mean(ratios), goal, False, note=note, digits=3)
                )
    for mode in MODES:
        found += _against_torch(mode, {at: case for at, case in cases.items() if at[3] == mode})
    return found


def _against_torch(mode: str, cases: dict[Case, dict[tuple[str, str], Row]]) -> list[Verdict]:
    """The verdicts on each network beside itself with torch's norms: the mean, the worst three."""
    at = ("converted", "torch")
    measured = sorted(
        ((case[at].q50, name) for name, case in cases.items() if at in case), reverse=True
    )
    if not measured:
        return []
    above = sum(ratio > TORCH_GOAL for ratio, _ in measured)
    mean = geometric_mean([ratio for ratio, _ in measured])
    note = f"{above} of {len(measured)} cases above; geometric mean {mean:.3f}"
    label = f"{mode}: converted ÷ torch, worst"
    found = [Verdict(label, measured[0][0], TORCH_GOAL, False, note=note, digits=3)]
    for ratio, (name, layout, dtype, _) in measured:
        if ratio > TORCH_GOAL:
            row = cases[name, layout, dtype, mode][at]
            note = f"20 % to 80 %: {row.q20:.3f} to {row.q80:.3f}"
            label = f"  {name} {layout} {dtype}"
            found.append(Verdict(label, ratio, TORCH_GOAL, False, note=note, digits=3))
    return found


def _ratios(cases: dict[Case, dict[tuple[str, str], Row]], who: str, base: str) -> list[float]:
    return [case[who, base].q50 for case in cases.values() if (who, base) in case]


def _interval(row: Row) -> str:
    return f"{row.q50:.3f} ({row.q20:.3f}–{row.q80:.3f})"


def _text(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
