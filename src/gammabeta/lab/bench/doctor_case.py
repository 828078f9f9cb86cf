"""One row of `gammabeta bench doctor`: what a tool made of a fault, or of something healthy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gammabeta.lab.bench.doctor_set import Script
from gammabeta.lab.bench.doctor_tools import OURS, Complaint, Seen

FAULT, HEALTHY, NETWORK, SPEED = "fault", "healthy", "network", "speed"
KINDS = (FAULT, HEALTHY, NETWORK, SPEED)

_LONG = 240


@dataclass
class Case:
    """What came of one script, or network, with one tool.

    Attributes:
        kind: of `KINDS`: a fault and its healthy twin, a healthy net that is trained, a network of
            another library, or a measurement of speed.
        name: of the script or network.
        tool: who looked.
        code: code of the rule that must find the fault; ``""`` for what is healthy. A few networks
            have a real one.
        found: whether the fault was found.
        layer: whether the right layer was named.
        fix: whether the right fix was proposed.
        extra: complaints above information about the faulty twin with another code.
        alarms: complaints above information about what is healthy.
        passes: most forward passes of an examination.
        seconds: both twins together.
        said: the extra complaints and the alarms.
        note: what the tool could not do, and why.
        made: date and versions.
    """

    kind: str
    name: str
    tool: str
    code: str = ""
    found: bool = False
    layer: bool = False
    fix: bool = False
    extra: int = 0
    alarms: int = 0
    passes: int = 0
    seconds: float = 0.0
    said: str = ""
    note: str = ""
    made: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one row of."""
        return self.kind, self.name, self.tool

    @property
    def right(self) -> bool:
        """Whether the fault was found with the right layer and fix, or nothing is wrong."""
        found = (self.found and self.layer and self.fix) or self.kind != FAULT
        return found and not self.extra and not self.alarms


def judge(script: Script, tool: str, look: Callable[[Script, bool], Seen]) -> Case:
    """Have a tool look at all twins of a script.

    The doctor must name the script's code; of another tool, each complaint about the faulty twin
    counts that it does not make about the healthy one.

    Args:
        script: of the set.
        tool: its name.
        look: runs the tool.
    """
    case = Case(FAULT if script.fault else HEALTHY, script.name, tool, script.code)
    seen = {faulty: look(script, faulty) for faulty in script.twins}
    healthy = seen[False]
    extra: list[Complaint] = []
    if script.fault:
        known = {each.key for each in healthy.complaints}
        if tool == OURS:
            hits = seen[True].of(script.code)
            extra = [each for each in seen[True].alarms if each.code != script.code]
        else:
            hits = [each for each in seen[True].complaints if each.key not in known]
        case.found = bool(hits)
        case.layer = any(script.layer in each.layers for each in hits)
        case.fix = any(script.fix in each.fix for each in hits)
    fill(case, list(seen.values()), extra, healthy.alarms)
    return case


def fill(
    case: Case, seen: Sequence[Seen], extra: Sequence[Complaint], alarms: Sequence[Complaint]
) -> None:
    """Fill in what all kinds of cases have."""
    case.extra, case.alarms = len(extra), len(alarms)
    case.passes = max(each.passes for each in seen)
    case.seconds = sum(each.seconds for each in seen)
    said = [f"extra: {each.text}" for each in extra] + [f"alarm: {each.text}" for each in alarms]
    case.said = _line("; ".join(said))
    case.note = _line("; ".join(dict.fromkeys(note for each in seen for note in each.notes)))


def failed(case: Case, error: Exception) -> Case:
    """Return ``case`` for a script that raised an error: nothing was found."""
    case.note = _line(f"{type(error).__name__}: {error}")
    return case


def _line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _LONG else words[: _LONG - 1] + "…"
