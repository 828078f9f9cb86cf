"""What the rows of `gammabeta.lab.bench.norm` say: a line a shape, and the goals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from gammabeta.lab.bench.inputs import FORMATS, OPS
from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.rivals import RIVALS
from gammabeta.lab.bench.timing import geometric_mean
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.table import table

GOALS: dict[str, tuple[float, float, float, float]] = {
    "fp32-nchw": (3.5, 4.2, 4.2, 1.15),
    "fp32-channels_last": (1.8, 2.5, 2.8, 1.35),
    "bf16-channels_last": (2.0, 2.5, 2.5, 1.35),
}
"""Format → least × torch eager of each of `OPS`, and the most BN+ReLU may take of a bare ReLU."""

BEST_GOAL = 2.0
"""Least × of BN+ReLU over the best of all rivals measured, geometric mean."""

NAMES = {"bn": "BN", "bn+relu": "BN+ReLU", "bn+add+relu": "BN+add+ReLU"}
LAYOUTS = {
    "fp32-nchw": "fp32 NCHW",
    "fp32-channels_last": "fp32 channels_last",
    "bf16-channels_last": "bf16 channels_last",
}
SIZES = {"below 2 MiB": 2 << 20, "2 to 8 MiB": 8 << 20, "8 MiB and more": 1 << 62}
"""Tensors that fit one core's cache, all cores', and neither: where the time goes differs."""

_NETWORKS = {"bn-inception", "resnet-50"}

Times = Mapping[tuple[str, str], float]
Ratios = dict[str, float]


def times(rows: Iterable[Row]) -> Mapping[tuple[str, str], Times]:
    """(format, shape) → (what, who) → median seconds, of those that took part."""
    found: dict[tuple[str, str], dict[tuple[str, str], float]] = {}
    for row in rows:
        if not math.isnan(row.q50):
            found.setdefault((row.format, row.shape), {})[row.what, row.who] = row.q50
    return found


def ratios(rows: Sequence[Row], name: str, over: tuple[str, str], under: tuple[str, str]) -> Ratios:
    """Each shape's ratio of two medians, in the format ``name``."""
    return {
        shape: medians[over] / medians[under]
        for (fmt, shape), medians in times(rows).items()
        if fmt == name and over in medians and under in medians
    }


def of_networks(rows: Sequence[Row]) -> list[Row]:
    """The rows that count for the geometric means: the networks' shapes; all if none is one."""
    counted = [row for row in rows if _NETWORKS & set(row.case.split())]
    return counted or list(rows)


def shapes_table(rows: Sequence[Row], name: str) -> str:
    """Lay out one format: a line a shape, microseconds and ratios."""
    whos = [who for who in _whos(rows) if who != "gammabeta"]
    whats = [what for what in OPS if any(row.what == what for row in rows)]
    heads = ["shape", "copy µs", "ReLU µs"]
    for what in whats:
        heads += [f"{NAMES[what]} µs", *(f"× {who}" for who in whos)]
    heads += ["÷ ReLU"] if "bn+relu" in whats else []
    lines = []
    for (fmt, shape), medians in times(rows).items():
        if fmt != name:
            continue
        line = [shape.replace("x", "×")]
        line += [_microseconds(medians.get((what, "torch"))) for what in ("copy", "relu")]
        for what in whats:
            ours = medians.get((what, "gammabeta"))
            line += [_microseconds(ours), *(_ratio(medians.get((what, w)), ours) for w in whos)]
        if "bn+relu" in whats:
            line.append(_ratio(medians.get(("bn+relu", "gammabeta")), medians[("relu", "torch")]))
        lines.append(line)
    return table(heads, lines)


def by_size(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Format → size of a tensor → BN+ReLU ÷ a bare ReLU, the networks' shapes' geometric mean."""
    found: dict[str, dict[str, float]] = {}
    counted = of_networks(rows)
    sizes = {(row.format, row.shape): row.bytes / 2 for row in counted if row.what == "copy"}
    for name in FORMATS:
        over = ratios(counted, name, ("bn+relu", "gammabeta"), ("relu", "torch"))
        least = 0
        for label, most in SIZES.items():
            of = {s: ratio for s, ratio in over.items() if least <= sizes.get((name, s), -1) < most}
            if of:
                found.setdefault(name, {})[label] = _mean(of)
            least = most
    return found


def sizes_table(rows: Sequence[Row]) -> str:
    """Lay out `by_size`; empty if there is nothing to say."""
    found = by_size(rows)
    lines = [
        [LAYOUTS[name], *(f"{of[label]:.2f}" if label in of else "–" for label in SIZES)]
        for name, of in found.items()
    ]
    return table(["BN+ReLU ÷ ReLU, by tensor", *SIZES], lines) if lines else ""


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge ``rows`` by the goals; formats that were not measured are left out."""
    return [v for name in FORMATS for v in _of_format(rows, name)] + _least(rows)


def _of_format(rows: Sequence[Row], name: str) -> list[Verdict]:
    counted = of_networks([row for row in rows if row.format == name])
    if not counted:
        return []
    *least, most = GOALS[name]
    found = []
    for what, goal in zip(OPS, least, strict=True):
        if any(row.what == what for row in counted):
            mean = _mean(ratios(counted, name, (what, "eager"), (what, "gammabeta")))
            found.append(
                Verdict(f"{LAYOUTS[name]}: {NAMES[what]}, × torch eager", mean, goal, True)
            )
    if any(row.what == "bn+relu" for row in counted):
        over = ratios(counted, name, ("bn+relu", "gammabeta"), ("relu", "torch"))
        theirs = _mean(ratios(counted, name, ("bn+relu", "eager"), ("relu", "torch")))
        note = "" if math.isnan(theirs) else f"torch eager: {theirs:.2f}"
        found.append(
            Verdict(f"{LAYOUTS[name]}: BN+ReLU ÷ ReLU", _mean(over), most, False, note=note)
        )
        best = {
            shape: min(others) / medians["bn+relu", "gammabeta"]
            for (_, shape), medians in times(counted).items()
            if (others := _rivals(medians, "bn+relu"))
        }
        took_part = {who for at in times(counted).values() for what, who in at if what == "bn+relu"}
        whos = [who for who in _whos(counted) if who in took_part and who != "gammabeta"]
        if len(whos) > 1:
            label = f"{LAYOUTS[name]}: BN+ReLU, × best of {', '.join(whos)}"
            found.append(Verdict(label, _mean(best), BEST_GOAL, True))
    return found


def _least(rows: Sequence[Row]) -> list[Verdict]:
    """The worst shape of all against each rival: nothing may be slower."""
    found = []
    for who in _whos(rows):
        if who == "gammabeta":
            continue
        worst = min(
            (
                (medians[what, who] / medians[what, "gammabeta"], f"{LAYOUTS[fmt]} {shape} {what}")
                for (fmt, shape), medians in times(rows).items()
                for what in OPS
                if (what, who) in medians and (what, "gammabeta") in medians
            ),
            default=(math.nan, ""),
        )
        where = worst[1].replace("x", "×") if worst[1] else ""
        found.append(Verdict(f"worst of all shapes, × {who}", worst[0], 1.0, True, note=where))
    return found


def line(rows: Sequence[Row]) -> str:
    """One case in one line."""
    (name, shape), medians = next(iter(times(rows).items()))
    parts = [f"{LAYOUTS[name]} {shape.replace('x', '×')}"]
    for what in OPS:
        ours, theirs = medians.get((what, "gammabeta")), medians.get((what, "eager"))
        if ours and theirs:
            parts.append(f"{NAMES[what]} × {theirs / ours:.2f}")
    return "  ".join(parts)


def absences(rows: Sequence[Row]) -> list[str]:
    """Who took no part and why, one line each."""
    return list(
        dict.fromkeys(
            f"{row.who}, {NAMES.get(row.what, row.what)}: {row.note}"
            for row in rows
            if math.isnan(row.q50) and row.note
        )
    )


def _whos(rows: Sequence[Row]) -> list[str]:
    """Whose layers were measured, ours first."""
    found = {row.who for row in rows}
    return [who for who in ("gammabeta", *RIVALS) if who in found]


def _rivals(medians: Times, what: str) -> list[float]:
    return [
        time
        for (measured, who), time in medians.items()
        if measured == what and who not in ("gammabeta", "torch")
    ]


def _mean(found: Ratios) -> float:
    return geometric_mean(list(found.values()))


def _microseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e6:.4g}" if seconds < 1e-2 else f"{seconds * 1e6:.0f}"


def _ratio(over: float | None, under: float | None) -> str:
    return "–" if over is None or under is None else f"{over / under:.2f}"
