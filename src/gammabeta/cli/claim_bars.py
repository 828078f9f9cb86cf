"""Progress of claims: a bar each where a person watches, a line a run where nobody does."""

from __future__ import annotations

from rich.console import Console
from rich.progress import Progress

from gammabeta.cli.bars import labelled


class Bars:
    """The bars of the claims that run at this moment.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = labelled(console, speed_estimate_period=3600.0)

    def add(self, title: str) -> Runs:
        """Return a new bar, called ``title``."""
        return Runs(self._console, self._bars, title)

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()


class Runs:
    """Shows which arm and seed is running; implements `framework.context.Progress`."""

    def __init__(self, console: Console, bars: Progress, title: str) -> None:
        self._console, self._bars, self._title = console, bars, title
        self._total = 0
        self._count = 0
        self._task = bars.add_task(title, total=None, label="")

    def plan(self, runs: int) -> None:
        """Expect ``runs`` results."""
        self._total = runs
        self._bars.update(self._task, total=runs)

    def begin(self, label: str) -> None:
        """Show what is being computed."""
        self._bars.update(self._task, label=label)

    def within(self, fraction: float) -> None:
        """Move the bar within one result."""
        self._bars.update(self._task, completed=self._count + min(fraction, 1.0))

    def done(self, label: str, was_kept: bool) -> None:
        """Count one result."""
        self._count += 1
        self._bars.update(self._task, completed=self._count, label=label)
        if not self._console.is_terminal:
            of = f"/{self._total}" if self._total else ""
            kept = "  (kept)" if was_kept else ""
            self._console.print(f"  {self._title}  {self._count}{of}  {label}{kept}", markup=False)

    def close(self) -> None:
        """Take the bar away."""
        self._bars.remove_task(self._task)
