"""What an examination says: findings, the worst first, and what could not be examined."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gammabeta.doctor.finding import SEVERITIES, Finding, plain, rank
from gammabeta.doctor.printed import paragraph, wrapped
from gammabeta.doctor.repair import Change, repaired
from gammabeta.doctor.sarif import log
from gammabeta.names import known

SCHEMA = 1
"""Version of the JSON that `Report.as_dict` returns."""


class UnhealthyError(AssertionError):
    """A model has findings that its caller does not accept; the message is the report."""


@dataclass(repr=False)
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
        fixed: what `fix` has changed.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    intended: list[Finding] = field(default_factory=list)
    checked: tuple[str, ...] = ()
    model: str = ""
    norms: int = 0
    passes: int = 0
    fixed: list[Change] = field(default_factory=list)

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

    def fix(self, model: nn.Module) -> list[Change]:
        """Apply the safe fixes of the findings to ``model`` in place.

        A fix is safe if it changes nothing that training has learned. The report keeps describing
        the model as it was: examine it again afterwards. A fix that fails becomes a note.

        Args:
            model: the examined model, or one like it.

        Returns:
            What changed; ``change.stored`` says whether a checkpoint holds the change.

        Raises:
            TypeError: ``model`` is not a module.

        Example:
            >>> from gammabeta.doctor import examine
            >>> model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=0.99))
            >>> for change in examine(model).fix(model):
            ...     print(change)
            GB103 1.momentum: 0.99 → 0.01
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is of type {type(model).__name__}; give a torch.nn.Module")
        repairs = [(f.code, f.repair) for f in self.findings if f.repair is not None]
        changes, notes = repaired(repairs, model)
        self.fixed += changes
        self.notes += notes
        return changes

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
            "fixed": [change.as_dict() for change in self.fixed],
            "notes": list(self.notes),
        }

    def to_sarif(self, file: str = "", line: int = 1) -> dict[str, Any]:
        """Return the report as a SARIF 2.1.0 log, which code hosts show beside the code.

        Args:
            file: where the model is made: a path relative to the repository; ``""`` if unknown.
            line: the line in it.
        """
        return log(self.findings, self.intended, self.notes, self.checked, file=file, line=line)

    def to_json(self, indent: int | None = 2) -> str:
        """Return `as_dict` as text; NaN and infinities are written as strings."""
        return json.dumps(plain(self.as_dict()), indent=indent, allow_nan=False)

    def __str__(self) -> str:
        lines = wrapped(self._headline(), "", "    ")
        for each in sorted(self.findings, key=rank):
            lines += ["", *paragraph(each)]
        for note in dict.fromkeys(self.notes):
            lines += ["", *wrapped(f"note: {note}", "", "      ")]
        return "\n".join(lines)

    def __repr__(self) -> str:
        """Return one line: notebooks show the text instead, see `_repr_pretty_`."""
        found = "; ".join(f"{f.code} {f.where}" for f in sorted(self.findings, key=rank))
        return f"<Report of {self._headline()}{f': {found}' if found else ''}>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Show the report in a notebook as ``print`` does."""
        printer.text(repr(self) if cycle else str(self))

    def _headline(self) -> str:
        norms = f"{self.norms} norm{'s' * (self.norms != 1)}"
        rules = f"{len(self.checked)} rule{'s' * (len(self.checked) != 1)}"
        passes = f", {self.passes} forward pass{'es' * (self.passes != 1)}" if self.passes else ""
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
