"""A watch that records nothing, and says why."""

from __future__ import annotations

from typing import Any

from gammabeta.signal.attending import Attendant
from gammabeta.signal.inert_record import InertRecord
from gammabeta.signal.watching import Watch


class InertWatch(Watch):
    """A watch that records nothing: of a copied model, or of another rank than 0.

    Args:
        why: why it records nothing.
        attendant: helps those of other processes; or None.
    """

    def __init__(self, why: str, attendant: Attendant | None = None) -> None:
        self.steps = 0
        self.record = InertRecord("inert")
        self._why = why
        self._handles = []
        self.findings = []
        self._attendant = None
        self._attends = False
        self._helps = attendant
        if attendant is not None:
            attendant.silence()

    def step(self, loss: Any = None, *, scaler: Any = None, **scalars: Any) -> None:
        """Count the step; record nothing."""
        self.steps += 1
        if self._helps is not None:
            self._helps.step(self.steps)

    def mark(self, text: str) -> None:
        """Do nothing."""

    @property
    def overhead(self) -> float:
        """0."""
        return 0.0

    def close(self, status: str = "finished") -> None:
        """Stop helping; there is nothing to write."""
        helps, self._helps = self._helps, None
        if helps is not None:
            helps.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return InertWatch, (self._why,)

    def __repr__(self) -> str:
        return f"<an inert watch: {self._why}>"
