"""A progress bar as all long commands have it: how far, how long, how long still, what now."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column


def labelled(console: Console, **options: Any) -> Progress:
    """Return bars whose tasks have a field ``label``: it gets what width is left, and is cut.

    They show only where a person watches. ``options`` are rich's.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=20, table_column=Column(min_width=20)),
        MofNCompleteColumn(table_column=Column(min_width=7)),
        TimeElapsedColumn(table_column=Column(min_width=7)),
        TimeRemainingColumn(table_column=Column(min_width=7)),
        TextColumn("{task.fields[label]}", table_column=Column(no_wrap=True, ratio=1)),
        console=console,
        disable=not console.is_terminal,
        transient=True,
        expand=True,
        **options,
    )
