"""What a claim is, and what comes out when it is put to the test."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gammabeta.lab.claims.framework.context import Context

HOLDS = "holds"
UNDER_THIS_PROTOCOL = "holds under this protocol"
DOES_NOT_HOLD = "does not hold here"
VERDICTS = (HOLDS, UNDER_THIS_PROTOCOL, DOES_NOT_HOLD)
"""The only answers. The middle one: another reasonable protocol, also run, answers otherwise."""


def verdict(held: Sequence[bool]) -> str:
    """Return the verdict where the criterion was put to several protocols: all, some or none held.

    Example:
        >>> verdict([True, False])
        'holds under this protocol'
    """
    return HOLDS if all(held) else UNDER_THIS_PROTOCOL if any(held) else DOES_NOT_HOLD


@dataclass(frozen=True)
class Number:
    """One measured number, over seeds.

    Attributes:
        label: what was measured, in words.
        value: the median over seeds; infinite for a step that never came, NaN for no answer.
        low, high: the smallest and largest over seeds.
        unit: such as ``"steps"``; ``"%"`` for a fraction, which is given as 0 … 1 and printed
            as a percentage; ``"×"`` for a ratio.
        paper: the paper's number as text, where it has one.
        target: what had to be reached, as text, where something had.
        bound: ``"≥"`` or ``"≤"`` where the run ended before the value was known.
    """

    label: str
    value: float
    low: float
    high: float
    unit: str = ""
    paper: str = ""
    target: str = ""
    bound: str = ""

    @classmethod
    def over(
        cls,
        label: str,
        values: Sequence[float],
        unit: str = "",
        paper: str = "",
        target: str = "",
        bound: str = "",
    ) -> Number:
        """Return median, smallest and largest of ``values``, one a seed.

        Raises:
            ValueError: there are no values.

        Example:
            >>> print(Number.over("ratio", [10.0, 12.0, 30.0], "×"))
            ratio: 12 × (10 … 30)
        """
        if not values:
            raise ValueError(f"values={values!r} of {label!r} must hold one number a seed")
        if any(math.isnan(value) for value in values):
            return cls(label, math.nan, math.nan, math.nan, unit, paper, target)
        # Not interpolated: the median of 100 and "never" would be neither.
        middle = statistics.median_low(values)
        return cls(label, middle, min(values), max(values), unit, paper, target, bound)

    def text(self) -> str:
        """Return value and unit, such as ``"92.1 %"``."""
        return f"{self.bound} {_text(self.value, self.unit)}".strip()

    def spread(self) -> str:
        """Return smallest and largest, such as ``"91.8 … 92.4"``; empty if they are one."""
        if math.isnan(self.value) or self.low == self.high:
            return ""
        return f"{_text(self.low, self.unit, bare=True)} … {_text(self.high, self.unit, bare=True)}"

    def __str__(self) -> str:
        spread = self.spread()
        return f"{self.label}: {self.text()}" + (f" ({spread})" if spread else "")


@dataclass(frozen=True)
class Outcome:
    """What came out.

    Attributes:
        numbers: the most important first: the score board shows the first one.
        verdict: one of `VERDICTS`.
        because: one sentence: the criterion, with the numbers that decided.
        figures: SVG files.
        notes: what a reader should know besides.
        headline: what the score board shows instead of the first number, where no single number
            would be fair.

    Raises:
        ValueError: the verdict is not one of the three, or there are no numbers.
    """

    numbers: Sequence[Number]
    verdict: str
    because: str
    figures: Sequence[Path] = ()
    notes: Sequence[str] = ()
    headline: str = ""

    def told(self) -> str:
        """Return the score board's text: the headline, or the first number and its target."""
        first = self.numbers[0]
        return self.headline or f"{first}{f', {first.target} asked' if first.target else ''}"

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r} must be one of: {', '.join(VERDICTS)}")
        if not self.numbers:
            raise ValueError("numbers=[] must hold at least the number that decided")


@dataclass(frozen=True)
class Claim:
    """A claim, how it is tested, and what would refute it; all written before the runs judged.

    Attributes:
        name: what a person types.
        title: a few words.
        statement: the claim, in one or two sentences.
        source: paper and section.
        protocol: what is run: data, networks, grids, steps, seeds; also what --quick cuts.
        criterion: which numbers give which verdict; ``run`` decides by it, in code.
        paper: the paper's number as text, for the score board.
        minutes_quick, minutes_full: what it costs of one core of 2 to 3 GHz, where results
            that it shares with an earlier claim are there already.
        run: runs it.
        version: of the protocol; results kept under another version are not used.
        after: claims whose results it shares; of claims side by side it waits for these.
    """

    name: str
    title: str
    statement: str
    source: str
    protocol: str
    criterion: str
    paper: str
    minutes_quick: float
    minutes_full: float
    run: Callable[[Context], Outcome]
    version: int = 1
    after: Sequence[str] = ()


def _text(value: float, unit: str, bare: bool = False) -> str:
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "never" if unit == "steps" else "∞" if value > 0 else "−∞"
    if unit == "%":
        number, unit = f"{100 * value:.1f}", " %"
    elif unit == "steps":
        number, unit = f"{value:,.0f}", " steps"
    else:
        number = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        unit = f" {unit}" if unit else ""
    return number.replace("-", "−") + ("" if bare else unit)
