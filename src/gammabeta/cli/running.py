"""A run under the command line: shown, stopped by a signal, ended with its exit code."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from gammabeta.cli.train_board import Board
from gammabeta.lab.train import run as runs
from gammabeta.lab.train.engine import Trainer
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.progress import Outcome
from gammabeta.lab.train.ranks import RankError, ranks
from gammabeta.lab.train.recipes import Recipe

DIVERGED = 3
"""The exit code of a run whose loss was not finite."""


def go(
    place: Path, chosen: Recipe | None, plan: Plan | None, free: dict[str, Any], device: str
) -> None:
    """Start or resume the run, and say how it ended."""
    console = Console(highlight=False, soft_wrap=True)
    code = 0
    with ranks(device) as all_ranks:
        board = Board(console) if all_ranks.first else None
        try:
            with runs.opened(
                place, chosen, plan, free, all_ranks, report=board.report if board else None
            ) as trainer:
                if board is not None:
                    board.begin(trainer)
                with board or _nothing(), _stopping(trainer):
                    outcome = trainer.run()
            if board is not None:
                board.end(trainer, outcome)
            code = _code(outcome)
        except RankError:
            if all_ranks.first:
                raise
            code = 2
    raise typer.Exit(code)


def _code(outcome: Outcome) -> int:
    if outcome.diverged is not None:
        return DIVERGED
    return 130 if outcome.stopped else 0


@contextmanager
def said_once() -> Iterator[None]:
    """What is wrong on every rank that ``torchrun`` started is said by the first."""
    try:
        yield
    except ValueError:
        if os.environ.get("RANK", "0") != "0":
            raise typer.Exit(2) from None
        raise


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _stopping(trainer: Trainer) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) lets the step finish and saves; a second ends at once."""

    def ask(number: int, frame: Any) -> None:
        if trainer.stop:
            raise KeyboardInterrupt
        trainer.stop = True

    before = {kind: signal.signal(kind, ask) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
