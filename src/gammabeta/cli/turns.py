"""Progress of a benchmark: a bar where a person watches, a line a case where nobody does."""

from __future__ import annotations

from types import TracebackType

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


class Turns:
    """Counts cases done; a context manager.

    Args:
        console: where to.
        title: what the bar calls the work.
        total: how many cases there are.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._console = console
        self._total = total
        self._done = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24, table_column=Column(min_width=24)),
            MofNCompleteColumn(table_column=Column(min_width=7)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TimeRemainingColumn(table_column=Column(min_width=7)),
            # Whatever width is left; the rest is cut.
            TextColumn("{task.fields[last]}", table_column=Column(no_wrap=True, ratio=1)),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            auto_refresh=False,  # a thread that draws would be timed along with the contenders
            expand=True,
        )
        self._task = self._bar.add_task(title, total=total, last="")

    def done(self, case: str) -> None:
        """One more case is done; ``case`` says which, and how it came out."""
        self._done += 1
        self._bar.update(self._task, completed=self._done, last=case, refresh=True)
        if not self._console.is_terminal:
            width = len(str(self._total))
            self._console.print(f"{self._done:>{width}}/{self._total}  {case}", markup=False)

    def __enter__(self) -> Turns:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()
