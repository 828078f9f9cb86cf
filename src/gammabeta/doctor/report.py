"""What an examination says: findings, the worst first, and what could not be examined."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gammabeta.doctor.finding import SEVERITIES, Finding, rank
from gammabeta.names import known

SCHEMA = 1
"""Version of the JSON that `Report.as_dict` returns."""

_WIDTH = 80
_MOST_LAYERS = 3


class UnhealthyError(AssertionError):
    """A model has findings that its caller does not accept; the message is the report."""


@dataclass
class Report:
    """The result of `gammabeta.examine`; ``print`` shows it in 80 columns.

    Attributes:
        findings: the worst first; those that differ only in the layer are one.
        notes: what could not be examined, and why: a rule that failed, a part that was not traced.
        intended: findings that were declared to be meant, by `gammabeta.intended`.
        checked: codes of the rules that ran.
        model: name of the model's class.
        norms: number of normalization layers.
        passes: number of forward passes that were run.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    intended: list[Finding] = field(default_factory=list)
    checked: tuple[str, ...] = ()
    model: str = ""
    norms: int = 0
    passes: int = 0

    @property
    def healthy(self) -> bool:
        """Whether nothing above ``"info"`` was found."""
        return not self.at_least("warning")

    def at_least(self, severity: str) -> list[Finding]:
        """Return the findings of this severity and above."""
        limit = SEVERITIES.index(known("severity", severity, SEVERITIES))
        return [f for f in self.findings if SEVERITIES.index(f.severity) >= limit]

    def of(self, code: str) -> list[Finding]:
        """Return the findings of one rule."""
        return [f for f in self.findings if f.code == code]

    def raise_on(self, severity: str = "error") -> Report:
        """Raise an error if there are findings of this severity or above; return the report.

        Raises:
            UnhealthyError: there are.
            ValueError: ``severity`` is not known.
        """
        if self.at_least(severity):
            raise UnhealthyError(f"\n{self}")
        return self

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON can represent it; ``schema`` is the version of its form."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "healthy": self.healthy,
            "norms": self.norms,
            "passes": self.passes,
            "checked": list(self.checked),
            "findings": [f.as_dict() for f in self.findings],
            "intended": [f.as_dict() for f in self.intended],
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = 2) -> str:
        """Return `as_dict` as text; NaN and infinities are written as strings."""
        return json.dumps(_plain(self.as_dict()), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        lines = [self._headline()]
        for each in sorted(self.findings, key=rank):
            lines += ["", *_paragraph(each)]
        for note in self.notes:
            lines += ["", *_wrap(f"note: {note}", "", "      ")]
        return "\n".join(lines)

    def _headline(self) -> str:
        norms = f"{self.norms} norm{'s' * (self.norms != 1)}"
        rules = f"{len(self.checked)} rules"
        passes = f", {self.passes} forward passes" if self.passes else ""
        meant = f", {len(self.intended)} intended" if self.intended else ""
        about = f"({norms}, {rules}{passes}{meant})"
        if not self.findings:
            return f"{self.model}: healthy {about}"
        counts = [
            f"{n} {severity}{'s' * (n != 1 and severity != 'info')}"
            for severity in reversed(SEVERITIES)
            if (n := sum(f.severity == severity for f in self.findings))
        ]
        return f"{self.model}: {', '.join(counts)} {about}"


def _paragraph(finding: Finding) -> list[str]:
    step = "" if finding.step is None else f", since step {finding.step}"
    head = f"{finding.severity} {finding.code} {_places(finding.layers)}{step}"
    lines = _wrap(head, "", "    ") + _wrap(_sentence(finding.cause), "    ", "    ")
    if finding.numbers:
        shown = ", ".join(f"{k} {_shown(v)}" for k, v in finding.numbers.items())
        lines += _wrap(shown, "    ", "    ")
    if finding.cost:
        lines += _wrap(f"cost: {finding.cost}", "    ", "          ")
    if finding.fix:
        lines += [f"    fix:  {finding.fix.splitlines()[0]}"]
        lines += [f"          {line}" for line in finding.fix.splitlines()[1:]]
    return lines


def _places(layers: Sequence[str]) -> str:
    named = [layer or "the model" for layer in layers[:_MOST_LAYERS]]
    more = len(layers) - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?")) else ".")


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _wrap(text: str, first: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text, _WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    )


def _plain(value: Any) -> Any:
    """Return ``value`` without what JSON does not know."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
