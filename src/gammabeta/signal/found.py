"""Findings in a record: what the doctor found, as a row of a file and as it is read.

A row holds the finding as JSON, with the keys of `gammabeta.doctor.Finding` and ``text``. A reader
takes the keys that it knows: other versions may have written more or fewer of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SEVERITIES = ("info", "warning", "error")
_LONGEST = 1_000_000
"""Characters of the JSON of a finding."""


@dataclass(frozen=True)
class RecordedFinding:
    """A finding as a record holds it.

    Attributes:
        id: increases in the order of recording.
        arm: id of the arm.
        step: step at which it began.
        severity: ``"info"``, ``"warning"`` or ``"error"``.
        text: one line: the code, the layer and the cause; the mark beside it has the same text.
        code, name: those of the rule, such as ``"GB316"`` and ``"nan"``.
        layer: path of the layer; ``""`` is the model as a whole.
        layers: paths of all layers with this fault.
        cause: one sentence that says what is wrong.
        numbers: the evidence.
        fix: what to do, as code.
        cost: the measured damage, in words.
    """

    id: int
    arm: int
    step: int
    severity: str
    text: str
    code: str = ""
    name: str = ""
    layer: str = ""
    layers: tuple[str, ...] = ()
    cause: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    fix: str = ""
    cost: str = ""

    @property
    def mark(self) -> str:
        """The text of the mark that was recorded with it."""
        return f"{self.severity} {self.text}"


def as_json(finding: Mapping[str, Any]) -> str:
    """Return a finding as JSON; numbers that are not finite become text, as JSON has none."""
    return json.dumps({key: _plain(value) for key, value in finding.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def from_row(id_: int, arm: int, step: int, text: str) -> RecordedFinding:
    """Return the finding of a row.

    Raises:
        ValueError: the text is not the JSON of a finding.
    """
    if len(text) > _LONGEST:
        raise ValueError("a finding is too long")
    try:
        found = json.loads(text)
    except RecursionError:
        raise ValueError("a finding is nested too deeply") from None
    if not isinstance(found, dict) or found.get("severity") not in SEVERITIES:
        raise ValueError("a finding has no severity")
    texts = ("text", "code", "name", "layer", "cause", "fix", "cost")
    layers, numbers = found.get("layers", []), found.get("numbers", {})
    if not all(isinstance(found.get(key, ""), str) for key in texts):
        raise ValueError("a finding has values of the wrong type")
    if not isinstance(layers, list) or not all(isinstance(each, str) for each in layers):
        raise ValueError("a finding's layers are no list of names")
    if not isinstance(numbers, dict):
        raise ValueError("a finding's numbers are no mapping")
    return RecordedFinding(
        id_,
        arm,
        step,
        found["severity"],
        layers=tuple(layers),
        numbers=numbers,
        **{key: found.get(key, "") for key in texts},
    )
