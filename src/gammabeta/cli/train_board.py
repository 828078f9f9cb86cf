"""What a person sees of a training run: a bar in a terminal, lines anywhere else."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from gammabeta.cli.terminal import say
from gammabeta.lab.train.engine import Trainer
from gammabeta.lab.train.progress import Outcome, Progress


class Board:
    """Shows a run; a context manager while it trains.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[last]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=None, last="")

    def begin(self, trainer: Trainer) -> None:
        """Say what is going to be trained."""
        plan, images, recipe = trainer.plan, trainer.images, trainer.recipe
        count = sum(p.numel() for p in trainer.model.parameters())
        ranks = f" · {trainer.ranks.count} ranks" if trainer.ranks.count > 1 else ""
        self._print(
            f"{recipe.name} · {images.name} {images.channels} × {images.size} × {images.size} · "
            f"{len(images.classes)} classes · {count:,} parameters · batch {recipe.batch_size} · "
            f"{trainer.ranks.device.type} {plan.precision}{ranks}"
        )
        if images.note:
            self._print(images.note)
        for line in trainer.notes:
            self._print(line)
        self._bar.update(self._task, total=plan.steps, completed=trainer.outcome.step)

    def report(self, progress: Progress) -> None:
        """Show how far it has come."""
        last = f"loss {progress.loss:.4f}  {progress.images_per_second:,.0f} images/s"
        if progress.best is not None:
            last += f"  best {progress.best:.1%}"
        self._bar.update(self._task, completed=progress.step, last=last)
        if not self._console.is_terminal:
            width = len(str(progress.steps))
            line = (
                f"{progress.step:>{width}}/{progress.steps}  loss {progress.loss:.4f}  "
                f"lr {progress.learning_rate:.3g}  {progress.images_per_second:,.0f} images/s  "
                f"{_duration(progress.seconds_left)} left"
            )
            if progress.accuracy is not None:
                line += f"  accuracy {progress.accuracy:.2%}"
            self._print(line)
        elif progress.accuracy is not None:
            self._print(f"step {progress.step}  accuracy {progress.accuracy:.2%}")

    def end(self, trainer: Trainer, outcome: Outcome) -> None:
        """Say how it ended, and what can be done with it."""
        if outcome.diverged is not None:
            self._print(
                f"diverged: the loss of step {outcome.diverged} was not finite; try a lower "
                "--base-lr"
            )
        elif outcome.stopped:
            self._print(
                f"stopped after step {outcome.step} of {trainer.plan.steps}; to continue: "
                f"gammabeta train --resume {trainer.folder}"
            )
        if outcome.best_step:
            self._print(f"best accuracy {outcome.best:.2%}, after step {outcome.best_step}")
        if outcome.checkpoint is not None:
            self._print(f"checkpoint  {outcome.checkpoint}")
        self._print(f"log         {trainer.folder / 'log.jsonl'}")

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _print(self, line: str) -> None:
        say(self._console, line)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"
