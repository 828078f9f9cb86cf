"""``gammabeta demo``: train the stack with and without normalization, and show it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gammabeta.cli import browser, demo_board
from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import say
from gammabeta.lab.data.flat import Dataset, load
from gammabeta.lab.demo.pair import Pair
from gammabeta.lab.demo.presets import DEFAULT, PRESETS, Settings, preset
from gammabeta.signal.record import Record, RecordError, RecordExistsError, record_path
from gammabeta.signal.run import Run
from gammabeta.view import Server, export
from gammabeta.view.server import DEFAULT_PORT, check_port

DEFAULT_OUT = Path("runs/demo")
_FIRST_VISIT_SECONDS = 8.0
"""How long a browser that was opened may take to come, should the run be over before it does."""

_PRESET_HELP = "Preset with the settings to start from: " + ", ".join(PRESETS) + "."


@dataclass
class DemoOptions(Options):
    """What ``gammabeta demo`` is asked for; what has a name of `Settings`' changes the preset."""

    preset: Annotated[str, Option(_PRESET_HELP, metavar="NAME")] = DEFAULT
    dataset: Annotated[
        str | None, Option("Data set: digits (included) or fashion-mnist (local IDX files).")
    ] = None
    data_dir: Annotated[Path | None, Option("Folder with the four IDX files of Fashion-MNIST.")] = (
        None
    )
    lr: Annotated[float | None, Option("Learning rate of both arms.")] = None
    init_scale: Annotated[
        float | None, Option("Factor on the Glorot standard deviation of the weights.")
    ] = None
    activation: Annotated[str | None, Option("Activation: sigmoid, tanh, relu or gelu.")] = None
    depth: Annotated[int | None, Option("Number of layers.")] = None
    width: Annotated[int | None, Option("Units per layer.")] = None
    norm: Annotated[str | None, Option("Norm of the second arm: batch, layer, group or rms.")] = (
        None
    )
    batch_size: Annotated[int | None, Option("Examples per mini-batch.")] = None
    optimizer: Annotated[str | None, Option("Optimizer: sgd, momentum or adam.")] = None
    momentum: Annotated[
        float | None,
        Option("Momentum of the running statistics of batch norm.", name="--bn-momentum"),
    ] = None
    steps: Annotated[int | None, Option("Number of optimizer steps.")] = None
    seed: Annotated[int | None, Option("Random seed for weights and mini-batches.")] = None
    out: Annotated[
        Path | None,
        Option("Record file to create; the page is written beside it.", shown=str(DEFAULT_OUT)),
    ] = None
    port: Annotated[
        int | None, Option("Port of the live page; 0 picks a free one.", shown=str(DEFAULT_PORT))
    ] = None
    server: Annotated[
        bool, Option("Serve a live page while training.", name="--server/--no-server")
    ] = True
    open: browser.Open = None


def demo(options: DemoOptions) -> None:
    """Train a small stack on real digits with and without batch norm, and watch its signal."""
    check_port(options.port)
    chosen = preset(options.preset)
    settings = chosen.settings.with_changes(**options.given(Settings))
    # A preset's sentence is about its own settings; with others it might be untrue.
    note = chosen.sentence if settings == chosen.settings else ""
    data = load(settings.dataset, options.data_dir)
    console = Console(highlight=False, soft_wrap=True)
    described = {**vars(settings), "note": note}
    record, live = _begun(options.out, settings.title(), described, options.server, options.port)
    page = record.path.with_suffix(".html")
    step = 0
    status = "failed"
    opened = False
    try:
        console.print(settings.title(), markup=False)
        if note:
            console.print(note, markup=False)
        if live is not None:
            live.start()
            console.print(f"live page, while it trains: {live.url}", markup=False)
            opened = browser.wanted(options.open)
            if opened:
                browser.open_page(live.url)
        # The tensors are small: a second thread only waits for the first, and beside a browser or
        # on a busy machine that wait would be most of the time.
        torch.set_num_threads(1)
        pair = Pair(settings, data, record)
        with _progress(console) as progress:
            task = progress.add_task("training", total=settings.steps)
            for step in pair.train():
                progress.update(task, completed=step)
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
    finally:
        with _hurried_by_an_interrupt(live):
            record.close(status)
            if live is not None:
                ended = status == "finished"
                # A page that listens is told how it ended, and need not look for us any more.
                live.drain(3 if ended else 1, first=_FIRST_VISIT_SECONDS if ended and opened else 0)
                live.stop()
    if record.error is not None:
        raise RecordError(f"{record.path} could not be written completely: {record.error}")
    with Run(record.path) as run:
        export(run, page, overwrite=True)
        if status == "finished":
            console.print()
            console.print(demo_board.outcome(run, _batch_accuracy(pair, data)))
            console.print()
            console.print(demo_board.layers(run))
    console.print()
    if status == "interrupted":
        console.print(
            f"interrupted after step {step} of {settings.steps}; the recorded steps are kept"
        )
    say(console, f"picture  {page}  (open it in a browser)")
    say(console, f"record   {record.path}  (gammabeta view {record.path})")
    if status == "interrupted":
        raise typer.Exit(130)


@contextmanager
def _hurried_by_an_interrupt(live: Server | None) -> Iterator[None]:
    """The first Ctrl-C ends the waiting for pages, nothing else; a second is one as ever.

    It is a handler, not an ``except``, because an exception would also break off the closing of
    the record.
    """

    def hurry(number: int, frame: Any) -> None:
        signal.signal(signal.SIGINT, before)
        if live is not None:
            live.hurry()

    before = signal.signal(signal.SIGINT, hurry)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begun(
    out: Path | None, title: str, settings: dict[str, Any], served: bool, port: int | None
) -> tuple[Record, Server | None]:
    """Create the record, and bind the port before it: one that is taken leaves nothing behind.

    The record is that which was asked for, or the first default one not in use. Another process
    may take a name between the look and the creation; the next one is then tried.
    """
    attempt = 0
    while True:
        attempt += 1
        default = DEFAULT_OUT if attempt == 1 else Path(f"{DEFAULT_OUT}-{attempt}")
        file = record_path(out or default)
        for taken in (file, file.with_suffix(".html")):
            if out is not None and taken.exists():
                raise RecordError(f"{taken} already exists; choose another --out or move it away")
        if out is None and (os.path.lexists(file) or file.with_suffix(".html").exists()):
            continue
        live = Server(file, port) if served else None
        try:
            return Record(file, title, settings), live
        except RecordError as e:
            if live is not None:
                live.stop()
            if out is not None or not isinstance(e, RecordExistsError):
                raise


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )


def _batch_accuracy(pair: Pair, data: Dataset) -> dict[str, float]:
    """Test accuracy of a batch-normalized arm with statistics of the test mini-batch itself."""
    if pair.settings.norm != "batch":
        return {}
    arm = pair.arms[1]
    return {arm.name: pair.evaluate_in_training_mode(arm)}
