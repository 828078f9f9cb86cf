"""What a watch says to the person: a few warnings, never an error."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping

from gammabeta.signal.capture import Capture
from gammabeta.signal.regions import Regions

MOST = 3
"""Maximum number of warnings of one watch."""


class Warnings:
    """The warnings of one watch: one of each kind, and at most `MOST`."""

    def __init__(self) -> None:
        self._kinds: set[str] = set()

    def say(self, message: str) -> None:
        """Warn; where warnings are errors, print instead: they must not end a training."""
        kind = message.split(":")[0]
        if kind in self._kinds or len(self._kinds) >= MOST:
            return
        self._kinds.add(kind)
        try:
            warnings.warn(message, RuntimeWarning, stacklevel=_level())
        except RuntimeWarning:
            print(f"gammabeta: {message}", file=sys.stderr)


def _level() -> int:
    """Return the ``stacklevel`` of the person's line, seen from the caller."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_NOT_THEIRS):
        level, frame = level + 1, frame.f_back
    return level


_NOT_THEIRS = ("gammabeta.signal.", "torch.")


def why_nothing(passed: Capture | None, training: bool) -> str:
    """Return the likely reason why a step has no signal.

    Args:
        passed: its forward pass; None if the model was not called.
        training: whether the model is in training mode.
    """
    if passed is not None:
        why = _named(passed.unseen) or "no function with weights was called"
        return f"nothing was measured: {why}"
    if not training:
        return "nothing was measured: the model is in eval(), and only training is recorded"
    return (
        "nothing was measured: the watched model was not called since the last step. Call it as "
        "model(x), and watch what you call"
    )


def not_norms(passed: Capture) -> str:
    """Name the normalizations that are not measured as such; "" if there are none."""
    named = _named(passed.strangers)
    return f"not measured as normalizations: {named}" if named else ""


def not_inside(passed: Capture | None, compiled: list[str]) -> str:
    """Name what is not measured from inside; "" if there is nothing.

    Args:
        passed: the forward pass, if there was one that could be seen.
        compiled: names of compiled modules.
    """
    unseen = dict(passed.unseen) if passed is not None else {}
    if compiled:
        more = f" and {len(compiled) - 5} more" if len(compiled) > 5 else ""
        unseen[", ".join(name or "the model" for name in compiled[:5]) + more] = (
            "compiled, seen from outside with its parameters; uncompiled=True runs the recorded "
            "passes uncompiled, to see inside"
        )
    named = _named(unseen)
    return f"not measured inside: {named}" if named else ""


def _named(reasons: Mapping[str, str]) -> str:
    return "; ".join(f"{name or 'the model'}: {why}" for name, why in reasons.items())


def unseen(passed: Capture | None, found: Regions) -> list[str]:
    """Say what is not measured; ``found`` are the regions of the model."""
    messages = (
        not_norms(passed) if passed is not None else "",
        not_inside(passed, list(found.compiled.values())),
    )
    return [message for message in messages if message]
