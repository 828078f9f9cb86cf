"""Undo several things, all of them, even if undoing one of them fails."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable


def undo_all(steps: Iterable[Callable[[], object]]) -> None:
    """Call every step, also after one has failed; then raise the first failure.

    Args:
        steps: called one after the other, without arguments.

    Raises:
        BaseException: what the first failing step raised. The other failures are its notes; on
            Python 3.10, which has no notes, the second is its ``__cause__``, and so on.

    Example:
        >>> done = []
        >>> undo_all([lambda: 1 / 0, lambda: done.append("second")])
        Traceback (most recent call last):
        ...
        ZeroDivisionError: division by zero
        >>> done
        ['second']
    """
    failures: list[BaseException] = []
    for step in steps:
        try:
            step()
        except BaseException as failure:  # an interrupt too: what follows is still undone
            failures.append(failure)
    if not failures:
        return
    first = last = failures[0]
    for other in failures[1:]:
        if sys.version_info >= (3, 11):
            first.add_note(f"Also failed to undo: {type(other).__name__}: {other}")
        elif other is not last:
            last.__cause__ = last = other
    raise first
