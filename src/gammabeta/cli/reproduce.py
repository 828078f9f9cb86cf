"""``gammabeta reproduce``: put the papers' claims to the test, and show what came out."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from gammabeta.cli.claim_bars import Bars
from gammabeta.cli.jobs import Done, put_to_the_test, side_by_side, usual
from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import say
from gammabeta.lab.claims.framework import report, results
from gammabeta.lab.claims.framework.claim import DOES_NOT_HOLD, HOLDS, UNDER_THIS_PROTOCOL, Claim
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import need_matplotlib
from gammabeta.lab.claims.framework.images import NAMES
from gammabeta.lab.claims.framework.registry import claim as named
from gammabeta.lab.claims.framework.registry import claims
from gammabeta.names import known

DEFAULT_OUT = Path("runs/claims")
_COLOURS = {HOLDS: "green", UNDER_THIS_PROTOCOL: "yellow", DOES_NOT_HOLD: "red"}
_WIDE = 110
"""Columns of a terminal from which on the paper's numbers stand on the board too."""


@dataclass
class ReproduceOptions(Options):
    """What ``gammabeta reproduce`` is asked for."""

    names: Annotated[
        list[str] | None,
        Option(
            "Claims to test; --list names them.",
            metavar="[CLAIM]...",
            shown=False,
            positional=True,
        ),
    ] = None
    every: Annotated[bool, Option("Run every claim.", name="--all")] = False
    quick: Annotated[bool, Option("Use shorter protocols: minutes instead of hours.")] = (
        Context.quick
    )
    listed: Annotated[
        bool,
        Option("List the claims, how each is tested, and how long it takes.", name="--list"),
    ] = False
    out: Annotated[
        Path | None,
        Option(
            "Output folder for results, figures and the report.", shown=f"{DEFAULT_OUT}[-quick]"
        ),
    ] = None
    data: Annotated[str, Option(f"Data set: {', '.join(NAMES)}.", metavar="NAME")] = Context.data
    data_dir: Annotated[Path | None, Option("Folder with the files of the data set.")] = (
        Context.data_dir
    )
    seeds: Annotated[int, Option("Number of seeds per arm.")] = len(Context.seeds)
    jobs: Annotated[int | None, Option("Claims to run at the same time.", shown="one per core")] = (
        None
    )


def reproduce(options: ReproduceOptions) -> None:
    """Test the claims about batch normalization.

    An interrupted run continues when the same command is given again.
    """
    chosen = [named(name) for name in dict.fromkeys(options.names or ())]
    console = Console(highlight=False, soft_wrap=True)
    if options.listed:
        _list(console, chosen or list(claims().values()))
        return
    if options.every and chosen:
        raise ValueError("--all runs every claim; omit the names or omit --all")
    if options.every:
        chosen = list(claims().values())
    if not chosen:
        raise ValueError(
            "no claim is given; name at least one, or give --all; --list shows the names"
        )
    seeds, jobs = options.seeds, options.jobs
    if not 3 <= seeds < 1000 or seeds % 2 == 0:
        raise ValueError(
            f"seeds={seeds} must be an odd number from 3 to 999, so that one of them is the median"
        )
    if jobs is not None and jobs < 1:
        raise ValueError(f"jobs={jobs} must be at least 1")
    known("data", options.data, NAMES)
    try:
        need_matplotlib()
    except ModuleNotFoundError as e:
        raise ValueError(str(e)) from e
    quick = options.quick
    folder = options.out or DEFAULT_OUT.with_name(DEFAULT_OUT.name + ("-quick" if quick else ""))
    context = Context(folder, quick, tuple(range(seeds)), options.data, options.data_dir)
    context.images()  # what is missing is said now, not in hours
    _refuse_special_files(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"out={folder} cannot be used: {e.strerror or e}") from e
    _run(console, context, chosen, min(jobs or usual(len(chosen)), len(chosen)))


def _refuse_special_files(folder: Path) -> None:
    """Raise if what is kept in ``folder`` has a FIFO, say, in it: reading one would never end."""
    for kind in ("outcomes", "results", "figures"):
        for path in sorted((folder / kind).rglob("*")):
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path} is not a regular file; move it away")


def _run(console: Console, context: Context, chosen: list[Claim], jobs: int) -> None:
    """Run the claims, each into its own outcome; then the report of all there are."""
    try:
        with Bars(console) as bars:
            running = (
                side_by_side(chosen, context, jobs, bars)
                if jobs > 1
                else _in_turn(chosen, context, bars)
            )
            with closing(running) as done:
                for number, (claim, outcome, seconds) in enumerate(done, 1):
                    console.print(
                        f"{number}/{len(chosen)}  {claim.name}: {outcome.verdict} "
                        f"({outcome.told()}; {seconds:.0f} s)",
                        markup=False,
                    )
    except KeyboardInterrupt:
        console.print()
        say(
            console,
            f"interrupted; the finished results are kept in {context.folder}; run the same command "
            "again to continue",
        )
        raise typer.Exit(130) from None
    found = results.kept(context.folder, context.quick)
    page, text = report.write(found, context.folder)
    console.print()
    console.print(_board([result for result in found if result.claim in chosen], console.width))
    console.print()
    say(console, f"report   {page}  (open it in a browser)")
    say(console, f"         {text}")
    recorded = sorted((context.folder / "runs").rglob("*.sqlite"))
    if recorded:
        say(console, f"records  {recorded[0]}  (gammabeta view {recorded[0]})")
        if len(recorded) > 1:
            say(console, f"         and {len(recorded) - 1} more beside it")


def _in_turn(chosen: list[Claim], context: Context, bars: Bars) -> Generator[Done]:
    for number, claim in enumerate(chosen, 1):
        row = bars.add(f"{number}/{len(chosen)} {claim.name}")
        yield claim, *put_to_the_test(claim, context.following(row))
        row.close()


def _board(found: list[results.Result], width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    wide = width >= _WIDE  # else two columns would share some twenty characters
    for head in ("claim", *(["the paper"] if wide else []), "here", "verdict"):
        table.add_column(head, no_wrap=head in ("claim", "verdict"))
    for result in found:
        verdict, number = result.outcome.verdict, result.outcome.numbers[0]
        spread = f" ({number.spread()})" if number.spread() else ""
        here = result.outcome.headline.partition(": ")[0] or f"{number.text()}{spread}"
        table.add_row(
            result.claim.name,
            *([result.claim.paper] if wide else []),
            here,
            f"[{_COLOURS[verdict]}]{verdict}[/]",
        )
    return table


def _list(console: Console, chosen: list[Claim]) -> None:
    """Print what each claim says, where it is from, how it is tested, and its cost."""
    for claim in chosen:
        console.print(f"[bold]{claim.name}[/]  {_minutes(claim)}")
        for name, text in (
            ("claim", claim.statement),
            ("source", claim.source),
            ("protocol", claim.protocol),
            ("criterion", claim.criterion),
            *(("cost", f"after {name}, whose runs it shares") for name in claim.after),
        ):
            grid = Table.grid(padding=(0, 1), pad_edge=True)
            grid.add_column(width=10, style="dim")
            grid.add_column()
            grid.add_row(name, text)
            console.print(grid, soft_wrap=False)
        console.print()
    needed = {claim.name: claim for each in chosen for claim in (each, *map(named, each.after))}
    quick = sum(claim.minutes_quick for claim in needed.values())
    full = sum(claim.minutes_full for claim in needed.values())
    console.print(
        f"{len(chosen)} claim{'s' if len(chosen) > 1 else ''}: {full:.0f} minutes of one core, "
        f"{quick:.0f} with --quick; each core takes one claim"
    )


def _minutes(claim: Claim) -> str:
    cost = f"{claim.minutes_full:g} min, {claim.minutes_quick:g} min with --quick"
    return f"({cost}, of one core)"
