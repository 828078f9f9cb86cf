"""Rules that exist for one test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gammabeta.doctor import RULES, Finding, Rule


@contextmanager
def rule(check: Callable[..., Any], kind: Any = "static", code: str = "XY101") -> Iterator[Rule]:
    """Have ``check`` be a rule within the block."""
    before = RULES._rules.get(code)
    made = Rule(code, "made-up", "a rule of a test", kind, check, __name__)
    RULES.add(made)
    try:
        yield made
    finally:
        if before is None:
            del RULES._rules[code]
        else:
            RULES._rules[code] = before


def finds(*findings: Finding) -> Callable[..., Any]:
    """Return a check that yields these findings."""
    return lambda *_: iter(findings)
