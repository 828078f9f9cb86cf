"""What a rule has found: one fault, with the numbers behind it and the fix."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from gammabeta.doctor.printed import paragraph
from gammabeta.doctor.repair import joined

SEVERITIES = ("info", "warning", "error")
"""From the mildest to the worst."""

Number = float | int | str | bool | None


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fault of a model or of its training; ``print`` shows it as a report does.

    Attributes:
        code: code of the rule, such as ``"GB101"``; the examination fills it in.
        name: name of the rule, such as ``"frozen-affine"``; likewise.
        severity: ``"error"``: results are wrong; ``"warning"``: they may be; ``"info"``: a habit
            that costs something. It follows the measured damage where there is one.
        layer: path of the layer; ``""`` is the model as a whole.
        layers: paths of all layers with this fault, ``layer`` first.
        cause: one sentence that says what is wrong, without numbers that differ between layers.
        numbers: the evidence: name → value.
        fix: what to do, as code.
        cost: the measured damage, in words; ``""`` if it was not measured.
        step: optimizer step where it began, during training; None otherwise.
        repair: applies the fix to the model in place and returns what it changed, in words; None
            if there is no safe one. Not part of JSON.

    Example:
        >>> found = Finding(severity="error", layer="bn", cause="its momentum is 0")
        >>> found.layers, found.cost
        (('bn',), '')
        >>> print(dataclasses.replace(found, code="GB103", name="momentum"))
        error GB103 momentum: bn
            Its momentum is 0.
    """

    code: str = ""
    name: str = ""
    severity: str
    layer: str
    cause: str
    numbers: Mapping[str, Number] = field(default_factory=dict)
    fix: str = ""
    cost: str = ""
    layers: tuple[str, ...] = ()
    step: int | None = None
    repair: Callable[[nn.Module], str] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity={self.severity!r} must be one of {', '.join(SEVERITIES)}")
        if not self.layers:
            object.__setattr__(self, "layers", (self.layer,))

    @property
    def where(self) -> str:
        """The layer, in words."""
        return self.layer or "the model"

    @property
    def text(self) -> str:
        """The finding in one line: code, layer and cause."""
        return f"{self.code} {self.where}: {self.cause}"

    def __str__(self) -> str:
        return "\n".join(paragraph(self))

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can represent it."""
        names = [each.name for each in dataclasses.fields(self) if each.name != "repair"]
        found = {name: getattr(self, name) for name in names}
        found["numbers"], found["layers"] = dict(self.numbers), list(self.layers)
        return found


def rank(finding: Finding) -> int:
    """Return 0 for an error, 1 for a warning, 2 for information."""
    return len(SEVERITIES) - 1 - SEVERITIES.index(finding.severity)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Return ``findings`` with those that differ only in the layer made one, the worst first.

    Example:
        >>> same = [Finding(severity="info", layer=name, cause="no") for name in ("a", "b")]
        >>> merged(same)[0].layers
        ('a', 'b')
    """
    groups: dict[tuple[object, ...], list[Finding]] = {}
    for each in findings:
        groups.setdefault((each.code, each.severity, each.cause, each.step), []).append(each)
    found = []
    for group in groups.values():
        layers = tuple(dict.fromkeys(layer for each in group for layer in each.layers))
        repair = joined(each.repair for each in group)
        found.append(dataclasses.replace(group[0], layers=layers, repair=repair))
    return sorted(found, key=lambda f: (rank(f), f.code))


def plain(value: Any) -> Any:
    """Return ``value`` without what JSON does not know."""
    if isinstance(value, dict):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if callable(getattr(value, "item", None)):  # a number of NumPy or torch
        with contextlib.suppress(ValueError, RuntimeError):
            value = value.item()
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
