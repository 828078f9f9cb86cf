"""What the rows of `gammabeta.lab.bench.watch` say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.lab.bench.watch_rivals import RIVALS
from gammabeta.table import table

FRAME_GOAL = 0.10
"""Most a frame may cost of a step."""

RUN_GOAL = 1.5
"""Most a run at the defaults may take longer than an unwatched one, in per cent."""

DOCTOR_GOAL = 1.0
"""Most of a run that the doctor may take, in per cent."""

RIVAL_GOALS = {"wandb.Histogram": 10.0, "add_histogram": 50.0}
"""How many times our cost others' histograms of the same tensors must take at least."""

MEMORY_GOAL = 16.0
"""Most MiB that memory may grow in a day with one frame a second."""

RECORD_GOAL = 300.0
"""Most MB that a record of 1,000 probes and 1,000 frames may take."""

DAY = 86_400

Medians = dict[tuple[str, str], float]


def by_network(rows: Sequence[Row]) -> dict[str, Medians]:
    """Network → (what, who) → median, of all that was measured."""
    found: dict[str, Medians] = {}
    for row in rows:
        if not math.isnan(row.q50):
            found.setdefault(row.case, {})[row.what, row.who] = row.q50
    return found


def frame_ratio(medians: Medians, who: str = "frame") -> float:
    """Return the cost of a frame in steps; NaN if it was not measured."""
    return _ratio(medians, ("frame", who), ("step", "plain"))


def rival_ratio(medians: Medians, who: str) -> float:
    """Return the cost of another's histograms in frames of ours.

    What our writer does beside the training counts as ours.
    """
    return _ratio(medians, ("frame", who), ("frame", "written"))


def run_cost(medians: Medians) -> float:
    """Return by how many per cent a watched run takes longer."""
    return 100 * (_ratio(medians, ("run", "watched"), ("run", "plain")) - 1)


def doctor_share(medians: Medians) -> float:
    """Return what the doctor takes of a run, in per cent."""
    return 100 * _ratio(medians, ("doctor", "doctor"), ("doctor", "run"))


def networks_table(rows: Sequence[Row]) -> str:
    """Lay out ``rows``: a line a network."""
    heads = [
        "network",
        "input",
        "step, ms",
        "frame, ms",
        "÷ step",
        "written ÷ step",
        "run, %",
        "doctor, %",
    ]
    heads += [f"× {who}" for who in RIVALS]
    shapes = {row.case: row.shape.replace("x", "×") for row in rows}
    lines = []
    for name, medians in by_network(rows).items():
        if ("step", "plain") not in medians:
            continue
        lines.append(
            [
                *(name, shapes[name]),
                _text(1e3 * medians["step", "plain"], ".1f"),
                _text(1e3 * medians.get(("frame", "frame"), math.nan), ".2f"),
                _text(frame_ratio(medians), ".3f"),
                _text(frame_ratio(medians, "written"), ".3f"),
                _text(run_cost(medians), "+.2f"),
                _text(doctor_share(medians), ".2f"),
                *(_text(rival_ratio(medians, who), ".1f") for who in RIVALS),
            ]
        )
    return table(heads, lines, left=2)


def line(rows: Sequence[Row]) -> str:
    """Summarize one case in one line."""
    first = rows[0]
    if math.isnan(first.q50):
        return f"{first.case}: {first.note}"
    if first.what in ("memory", "record"):
        return f"{first.what}, {first.case}: {first.note}"
    ((name, medians),) = by_network(rows).items()
    cost = f"{name}: a frame costs {_text(frame_ratio(medians), '.3f')} of a step"
    run = [
        f"{row.note} {_text(run_cost(medians), '+.2f')} %" for row in rows if row.who == "watched"
    ]
    return ", ".join([cost, *run])


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """Judge ``rows`` by the goals."""
    networks = {n: m for n, m in by_network(rows).items() if ("step", "plain") in m}
    found = []
    spread = {row.case: row for row in rows if (row.what, row.who) == ("frame", "frame")}
    for name, medians in networks.items():
        step, note = medians["step", "plain"], ""
        if name in spread:
            note = f"20 % to 80 %: {spread[name].q20 / step:.3f} to {spread[name].q80 / step:.3f}"
        label = f"{name}: frame ÷ step"
        found.append(Verdict(label, frame_ratio(medians), FRAME_GOAL, False, note=note))
    notes = {row.case: row.note for row in rows if row.what == "run"}
    for name, medians in networks.items():
        if ("run", "watched") in medians:
            label = f"{name}: watched run, longer by"
            cost = run_cost(medians)
            found.append(Verdict(label, cost, RUN_GOAL, False, unit=" %", note=notes[name]))
    notes = {row.case: row.note for row in rows if row.what == "doctor"}
    for name, medians in networks.items():
        if ("doctor", "run") in medians:
            label, share = f"{name}: the doctor's share of a run", doctor_share(medians)
            found.append(Verdict(label, share, DOCTOR_GOAL, False, unit=" %", note=notes[name]))
    for who, goal in RIVAL_GOALS.items():
        ratios = {name: rival_ratio(medians, who) for name, medians in networks.items()}
        worst = min((n for n in ratios if not math.isnan(ratios[n])), key=ratios.get, default="")  # type: ignore[arg-type]
        if networks:
            value = ratios.get(worst, math.nan)
            found.append(Verdict(f"{who} ÷ frame, least", value, goal, True, note=worst))
    for row in rows:
        if row.what == "memory":
            day = row.q50 * DAY / 2**20
            label = "memory, growth a day at one frame a second"
            found.append(Verdict(label, day, MEMORY_GOAL, False, unit=" MiB", note=row.note))
        if row.what == "record":
            label = "record of 1,000 probes × 1,000 frames"
            size = row.q50 / 1e6
            found.append(Verdict(label, size, RECORD_GOAL, False, unit=" MB", note=row.note))
    return found


def _ratio(medians: Medians, over: tuple[str, str], under: tuple[str, str]) -> float:
    if over not in medians or under not in medians or medians[under] <= 0:
        return math.nan
    return medians[over] / medians[under]


def _text(value: float, form: str) -> str:
    return "–" if math.isnan(value) else f"{value:{form}}"
