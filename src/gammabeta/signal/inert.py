"""A watch that records nothing, and says why."""

from __future__ import annotations

from typing import Any

from gammabeta.signal.record import InertRecord
from gammabeta.signal.watching import Watch


class InertWatch(Watch):
    """A watch that records nothing: of a copied model, or of another rank than 0.

    Args:
        why: why it records nothing.
    """

    def __init__(self, why: str) -> None:
        self.steps = 0
        self.record = InertRecord("inert")
        self._why = why
        self._handles = []
        self.findings = []
        self._attendant = None

    def step(self, loss: Any = None, *, scaler: Any = None, **scalars: Any) -> None:
        """Count the step; record nothing."""
        self.steps += 1

    def mark(self, text: str) -> None:
        """Do nothing."""

    @property
    def overhead(self) -> float:
        """0."""
        return 0.0

    def close(self, status: str = "finished") -> None:
        """Do nothing."""

    def __reduce__(self) -> tuple[Any, ...]:
        return InertWatch, (self._why,)

    def __repr__(self) -> str:
        return f"<an inert watch: {self._why}>"
