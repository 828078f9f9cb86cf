"""What the cases of `gammabeta.lab.bench.doctor` say."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gammabeta.doctor.evidence import PASSES
from gammabeta.doctor.rule import RULES
from gammabeta.lab.bench.doctor import TOOLS
from gammabeta.lab.bench.doctor_case import FAULT, HEALTHY, NETWORK, SPEED, Case
from gammabeta.lab.bench.doctor_rivals import RIVALS
from gammabeta.lab.bench.doctor_speed import SECONDS
from gammabeta.lab.bench.doctor_tools import OURS
from gammabeta.lab.bench.verdict import Verdict
from gammabeta.table import table

RECALL = 0.95
"""Least share of faults with the right code, and with the right layer."""
EXTRA = 0.05
"""Most extra complaints above information for each broken case."""
PYTORCHCV, TRANSFORMERS = 100, 20
"""Least number of networks of other libraries."""


def line(case: Case) -> str:
    """Summarize one case in one line."""
    parts = []
    if case.kind != FAULT and case.found:
        parts.append(f"{case.code}, a real fault")
    elif case.kind == FAULT and case.found:
        parts += ["found"] + [f"wrong {of}" for of in ("layer", "fix") if not _right(case, of)]
    elif case.kind == FAULT:
        parts.append("missed")
    elif case.kind == SPEED:
        parts.append(f"{case.seconds:.2f} s")
    else:
        parts.append("not run" if _is_absent(case) else "healthy" if not case.alarms else "")
    if case.extra:
        parts.append(f"{case.extra} extra")
    if case.alarms:
        parts.append(f"{case.alarms} false alarm{'s' * (case.alarms != 1)}")
    words = ", ".join(filter(None, parts))
    more = case.said if case.tool == OURS else ""
    about = f" ({'; '.join(filter(None, (more, case.note)))})" if more or case.note else ""
    return f"{case.name}, {case.tool}: {words}{about}"


def _right(case: Case, of: str) -> bool:
    return case.tool != OURS or bool(getattr(case, of))


def _is_absent(case: Case) -> bool:
    return bool(case.note) and not case.passes and case.kind == NETWORK


def rules_table(cases: Sequence[Case]) -> str:
    """Lay out the faults: a line for each rule."""
    names = {rule.code: rule.name for rule in RULES}
    heads = ["code", "rule", "faults", "found", "layer", "fix", "extra", "false alarms", *RIVALS]
    lines = []
    faults = [case for case in cases if case.kind == FAULT]
    codes = sorted({case.code for case in faults})
    for code in codes:
        own = [case for case in faults if case.code == code]
        lines.append([code, names.get(code, "–"), *_counts(own)])
    lines.append(["", "all", *_counts(faults)])
    return table(heads, lines, left=2)


def _counts(cases: Sequence[Case]) -> list[str]:
    mine = [case for case in cases if case.tool == OURS]
    counts = [len(mine), *(sum(getattr(c, of) for c in mine) for of in ("found", "layer", "fix"))]
    counts += [sum(c.extra for c in mine), sum(c.alarms for c in mine)]
    others = [[c for c in cases if c.tool == tool] for tool in RIVALS]
    return [
        *map(str, counts),
        *(f"{sum(c.found for c in own)}" if own else "–" for own in others),
    ]


def tools_table(cases: Sequence[Case]) -> str:
    """Lay out what each tool found, and how often it cried: a line for each tool."""
    heads = ["tool", "faults found", "twins with an alarm", "healthy nets with an alarm", "seconds"]
    lines = []
    for tool in TOOLS:
        own = [case for case in cases if case.tool == tool]
        faults = [case for case in own if case.kind == FAULT]
        nets = [case for case in own if case.kind == HEALTHY]
        if faults or nets:
            lines.append(
                [
                    tool,
                    f"{sum(c.found for c in faults)} of {len(faults)}",
                    f"{sum(c.alarms > 0 for c in faults)} of {len(faults)}",
                    f"{sum(c.alarms > 0 for c in nets)} of {len(nets)}",
                    f"{sum(c.seconds for c in (*faults, *nets)):.0f}",
                ]
            )
    return table(heads, lines)


def verdicts(cases: Sequence[Case]) -> list[Verdict]:
    """Judge the doctor's cases by its goals."""
    own = [case for case in cases if case.tool == OURS]
    faults = [case for case in own if case.kind == FAULT]
    found = []
    for of, label in (
        ("found", "faults found with the right code"),
        ("layer", "… and the right layer"),
        ("fix", "… and the right fix"),
    ):
        share = _share([bool(getattr(case, of)) for case in faults])
        note = f"{sum(bool(getattr(c, of)) for c in faults)} of {len(faults)}"
        found.append(Verdict(label, share, RECALL, True, unit="", note=note))
    extra = sum(case.extra for case in faults) / len(faults) if faults else math.nan
    found.append(Verdict("extra complaints a fault", extra, EXTRA, False, unit=""))
    groups = {
        "healthy twins": faults,
        "healthy nets": [case for case in own if case.kind == HEALTHY],
        "networks of pytorchcv": _networks(own, "pytorchcv:"),
        "networks of transformers": _networks(own, "transformers:"),
    }
    least = {"networks of pytorchcv": PYTORCHCV, "networks of transformers": TRANSFORMERS}
    for label, group in groups.items():
        if label in least and group:
            found.append(Verdict(label, len(group), least[label], True, unit="", digits=0))
        alarms = float(sum(case.alarms for case in group)) if group else math.nan
        names = ", ".join(case.name for case in group if case.alarms)
        title = f"false alarms, {label}"
        found.append(Verdict(title, alarms, 0, False, unit="", note=names, digits=0))
    passes = max((case.passes for case in own), default=0)
    value = float(passes) if passes else math.nan
    found.append(Verdict("most forward passes", value, PASSES, False, unit="", digits=0))
    taken = [case.seconds for case in own if case.kind == SPEED]
    for seconds in taken:
        found.append(Verdict("static rules, 1,000 modules", seconds, SECONDS, False, unit=" s"))
    return found


def _networks(cases: Sequence[Case], home: str) -> list[Case]:
    return [c for c in cases if c.kind == NETWORK and c.name.startswith(home) and c.passes]


def _share(of: Sequence[bool]) -> float:
    return sum(of) / len(of) if of else math.nan


def real(cases: Sequence[Case]) -> list[str]:
    """Return a line for each network that has a fault of its own."""
    return [f"{c.name} ({c.code})" for c in cases if c.kind == NETWORK and c.found]


def wrong(cases: Sequence[Case]) -> list[str]:
    """Return a line for each of the doctor's cases that is not right."""
    return [line(case) for case in cases if case.tool == OURS and not case.right]
