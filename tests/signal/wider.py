"""A table with one more field, added as CONTRIBUTING.md says: its declaration and its value."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

import pytest

from gammabeta.signal import schema
from gammabeta.signal.schema import Summary, fields_of


@dataclass(frozen=True, kw_only=True)
class Wider(Summary):
    kurtosis: float = field(
        metadata={
            "description": "fourth standardized moment",
            "label": "kurtosis",
            "unit": "a pure number",
        }
    )
    rank: float | None = field(
        default=None,
        metadata={"description": "effective rank", "label": "rank used", "show": "percent"},
    )


def widen(summary: Summary, kurtosis: float, rank: float | None = None) -> Wider:
    known = {f.name: getattr(summary, f.name) for f in fields(Summary)}
    return Wider(**known, kurtosis=kurtosis, rank=rank)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the table of this process be `Wider`."""
    monkeypatch.setattr(schema, "Summary", Wider)
    monkeypatch.setattr(schema, "FIELDS", fields_of(Wider))
