"""A progress bar for work that turns out long."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds of work before a bar appears."""


def track(
    items: Iterable[T], title: str, total: int | None = None, *, show: bool | None = None
) -> Generator[T, None, None]:
    """Yield ``items``, with a bar on stderr where the work turns out long.

    Args:
        items: what to go through.
        title: what the bar calls the work.
        total: how many items there are, or None if unknown.
        show: None for a bar after `PATIENCE` seconds if stderr is a terminal; True for a bar at
            once; False for none.

    Returns:
        A generator; close it (`contextlib.closing`) where the work may be given up midway, so
        that the bar goes at once.

    Example:
        >>> sum(track([1, 2, 3], "adding"))
        6
    """
    if show is False or (show is None and not sys.stderr.isatty()):
        yield from items
        return
    bar: Progress | None = None
    began = time.monotonic()
    try:
        for done, item in enumerate(items):
            if bar is None and (show or time.monotonic() - began > PATIENCE):
                bar = _bar()
                task = bar.add_task(title, total=total, completed=done)
                bar.start()
            yield item
            if bar is not None:
                bar.update(task, completed=done + 1)
    finally:  # also when the work is given up: the terminal's cursor comes back
        if bar is not None:
            bar.stop()


def _bar() -> Progress:
    # Here, so that importing gammabeta does not import rich.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
