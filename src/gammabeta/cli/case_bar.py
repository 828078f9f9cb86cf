"""Progress of a benchmark: a bar where a person watches, a line a case where nobody does."""

from __future__ import annotations

from rich.console import Console

from gammabeta.cli.bars import labelled


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
        # A thread that draws would be timed along with the contenders.
        self._bar = labelled(console, auto_refresh=False)
        self._task = self._bar.add_task(title, total=total, label="")

    def done(self, case: str) -> None:
        """One more case is done; ``case`` says which, and how it came out."""
        self._done += 1
        self._bar.update(self._task, completed=self._done, label=case, refresh=True)
        if not self._console.is_terminal:
            width = len(str(self._total))
            self._console.print(f"{self._done:>{width}}/{self._total}  {case}", markup=False)

    def __enter__(self) -> Turns:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
