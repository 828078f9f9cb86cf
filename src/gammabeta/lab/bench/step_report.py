"""What the rows of `gammabeta.lab.bench.step` say: time and memory of a network, form by form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.table import table

STEP_GOAL = 1.08
"""Most a step with our BN+ReLU may cost of the same step with the ReLU alone."""

PLAIN_GOAL = 1.1
"""Most a step with our BN+ReLU may cost of that of the network as it is trained without norms."""

LEAN_TIME_GOAL = 1.08
"""Most a lean step may cost of one in the default mode."""

LEAN_PEAK_GOAL = 0.62
"""Most the lean peak of activation memory may be of torch's."""

Medians = Mapping[str, float]


def by_dtype(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, float]]:
    """(what, dtype) → who → median, of those that took part."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if not math.isnan(row.q50):
            found.setdefault((row.what, row.dtype), {})[row.who] = row.q50
    return found


def forms_table(rows: Sequence[Row]) -> str:
    """Lay out ``rows``: a line a form and dtype, its figure, and that in units of others'."""
    medians = by_dtype(rows)
    heads = ["dtype", "form", "20 %", "median", "80 %", "unit", "× relu", "× torch"]
    lines = []
    for row in rows:
        if math.isnan(row.q50):
            continue
        scale, unit = (1e3, "ms") if row.unit == "s" else (2**-20, "MiB")
        others = medians[row.what, row.dtype]
        cells = [f"{q * scale:.4g}" for q in (row.q20, row.q50, row.q80)]
        ratios = [_text(_ratio(others, row.who, who)) for who in ("relu", "torch")]
        lines.append([row.dtype, row.who, *cells, unit, *ratios])
    return table(heads, lines, left=2)


def line(rows: Sequence[Row]) -> str:
    """One dtype in one line."""
    ((_, dtype), medians) = next(iter(by_dtype(rows).items()))
    parts = [f"{who} × {_text(_ratio(medians, who, 'relu'))}" for who in medians if who != "relu"]
    return "  ".join([f"{dtype}, of ReLU alone:", *parts])


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge ``rows`` by the goals."""
    found = []
    for (what, dtype), medians in by_dtype(rows).items():
        if what == "step":
            note = f"torch: {_text(_ratio(medians, 'torch', 'relu'))}"
            found += [
                Verdict(
                    f"{dtype} step: BN+ReLU ÷ ReLU alone",
                    _ratio(medians, "gammabeta", "relu"),
                    STEP_GOAL,
                    False,
                    note=note,
                ),
                *_against_plain(dtype, medians),
                Verdict(
                    f"{dtype} step: lean ÷ default",
                    _ratio(medians, "lean", "gammabeta"),
                    LEAN_TIME_GOAL,
                    False,
                ),
            ]
        else:
            note = f"default: {_text(_ratio(medians, 'gammabeta', 'torch'))}"
            found.append(
                Verdict(
                    f"{dtype} peak of activation memory: lean ÷ torch",
                    _ratio(medians, "lean", "torch"),
                    LEAN_PEAK_GOAL,
                    False,
                    note=note,
                )
            )
    return found


def _against_plain(dtype: str, medians: Medians) -> list[Verdict]:
    """The verdict on the network with biases in the norms' place, where that was measured."""
    if "plain" not in medians:
        return []
    ratio = _ratio(medians, "gammabeta", "plain")
    note = f"torch: {_text(_ratio(medians, 'torch', 'plain'))}"
    return [Verdict(f"{dtype} step: BN+ReLU ÷ bias+ReLU", ratio, PLAIN_GOAL, False, note=note)]


def _ratio(medians: Medians, over: str, under: str) -> float:
    if over not in medians or under not in medians:
        return math.nan
    return medians[over] / medians[under]


def _text(ratio: float) -> str:
    return "–" if math.isnan(ratio) else f"{ratio:.3f}"
