"""A claim, and the outcome of testing it."""

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
"""All possible verdicts. The second: another reasonable protocol, also run, disagrees."""


def verdict(held: Sequence[bool]) -> str:
    """Return the verdict of a criterion under several protocols: it held in all, some or none.

    Example:
        >>> verdict([True, False])
        'holds under this protocol'
    """
    return HOLDS if all(held) else UNDER_THIS_PROTOCOL if any(held) else DOES_NOT_HOLD


@dataclass(frozen=True)
class Number:
    """One measured number, over seeds.

    Attributes:
        label: description of what was measured.
        value: the median over seeds; infinite for a step never reached, NaN if undefined.
        low, high: the smallest and largest over seeds.
        unit: such as ``"steps"``; ``"%"`` for a fraction between 0 and 1 that is printed as a
            percentage; ``"×"`` for a ratio.
        paper: the paper's number as text, if any.
        target: the value to reach, as text, if any.
        bound: ``"≥"`` or ``"≤"`` if the run ended before the value was known.
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
        """Return median, smallest and largest of ``values``, one per seed.

        Raises:
            ValueError: there are no values.

        Example:
            >>> print(Number.over("ratio", [10.0, 12.0, 30.0], "×"))
            ratio: 12 × (10 … 30)
        """
        if not values:
            raise ValueError(f"values={values!r} of {label!r} must hold one number per seed")
        if any(math.isnan(value) for value in values):
            return cls(label, math.nan, math.nan, math.nan, unit, paper, target)
        # Not interpolated: between 100 and "never" there is no meaningful value.
        middle = statistics.median_low(values)
        return cls(label, middle, min(values), max(values), unit, paper, target, bound)

    def text(self) -> str:
        """Return value and unit, such as ``"92.1 %"``."""
        return f"{self.bound} {_text(self.value, self.unit)}".strip()

    def spread(self) -> str:
        """Return smallest and largest, such as ``"91.8 … 92.4"``; empty if they are equal."""
        if math.isnan(self.value) or self.low == self.high:
            return ""
        return f"{_text(self.low, self.unit, bare=True)} … {_text(self.high, self.unit, bare=True)}"

    def __str__(self) -> str:
        spread = self.spread()
        return f"{self.label}: {self.text()}" + (f" ({spread})" if spread else "")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a claim.

    Attributes:
        numbers: the score board shows the first one.
        verdict: one of `VERDICTS`.
        because: one sentence that states the criterion with the deciding numbers.
        figures: SVG files.
        notes: additional remarks for the reader.
        headline: text for the score board if no single number represents the outcome.

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
        """Return the text for the score board: the headline, or the first number and its target."""
        first = self.numbers[0]
        return self.headline or f"{first}{f', target {first.target}' if first.target else ''}"

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"verdict={self.verdict!r} must be one of: {', '.join(VERDICTS)}")
        if not self.numbers:
            raise ValueError("numbers=[] must hold at least the deciding number")


@dataclass(frozen=True)
class Claim:
    """A claim, how it is tested, and what would refute it; written before the runs it judges.

    Attributes:
        name: the name on the command line.
        title: a short title.
        statement: the claim in one or two sentences.
        source: paper and section.
        protocol: data, networks, grids, steps and seeds, and what --quick reduces.
        criterion: which numbers give which verdict; ``run`` implements it.
        paper: the paper's number as text, for the score board.
        minutes_quick, minutes_full: estimated time on one core of 2 to 3 GHz, if results shared
            with an earlier claim are cached.
        run: tests the claim.
        version: version of the protocol; results cached under another version are not used.
        after: claims that share results with this one; in parallel runs it waits for them.
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
