"""Figures beside what they must reach: met or missed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gammabeta.table import table


@dataclass(frozen=True)
class Verdict:
    """One figure and its goal.

    Attributes:
        of: what it is a figure of.
        value: the figure; NaN if it was not measured.
        goal: what it must reach.
        least: whether the goal is a least (or a most).
        unit: printed behind both.
        note: printed at the end of the line.
        digits: after the point.
    """

    of: str
    value: float
    goal: float
    least: bool
    unit: str = " ×"
    note: str = ""
    digits: int = 2

    @property
    def met(self) -> bool:
        """Whether the goal is reached; a figure that was not measured reaches none."""
        return self.value >= self.goal if self.least else self.value <= self.goal

    @property
    def measured(self) -> str:
        """The figure as it is printed."""
        return "–" if math.isnan(self.value) else f"{_text(self.value, self.digits)}{self.unit}"

    @property
    def word(self) -> str:
        """``met``, ``missed`` or ``not measured``."""
        return "not measured" if math.isnan(self.value) else "met" if self.met else "missed"


def verdicts_table(verdicts: Iterable[Verdict]) -> str:
    """Lay out ``verdicts`` for a person.

    Example:
        >>> print(verdicts_table([Verdict("speed", 2.5, 2.0, True)]))
        figure  measured      goal
        speed     2.50 ×  ≥ 2.00 ×  met
    """
    lines, words = [], []
    for v in verdicts:
        goal = f"{'≥' if v.least else '≤'} {_text(v.goal, v.digits)}{v.unit}"
        lines.append((v.of, v.measured, goal))
        words.append(v.word + (f"  ({v.note})" if v.note else ""))
    head, *rest = table(["figure", "measured", "goal"], lines).splitlines()
    return "\n".join([head, *(f"{line}  {word}" for line, word in zip(rest, words, strict=True))])


def _text(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if not value or 0.01 <= abs(value) < 1000 else f"{value:.1e}"
