"""``gammabeta view``: open recorded runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from gammabeta.cli import browser
from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import say
from gammabeta.signal.paths import RecordError
from gammabeta.signal.run import Run
from gammabeta.view import Server, export
from gammabeta.view.payload import title
from gammabeta.view.runs import Runs, located
from gammabeta.view.server import DEFAULT_PORT, check_port


@dataclass
class ViewOptions(Options):
    """What ``gammabeta view`` is asked for."""

    runs: Annotated[
        list[Path],
        Option(
            "Records of runs (.sqlite files, or folders of them); several are shown side by side.",
            positional=True,
            shown=False,
        ),
    ]
    port: Annotated[
        int | None, Option("Port of the page; 0 picks a free one.", shown=str(DEFAULT_PORT))
    ] = None
    host: Annotated[
        str | None,
        Option(
            "Address to listen on, such as 0.0.0.0 in a container; the page then requires the "
            "token in the address that is printed.",
            metavar="ADDRESS",
            shown="this machine only, without a token",
        ),
    ] = None
    open: browser.Open = None
    html: Annotated[
        Path | None, Option("Write the runs to one HTML file instead of serving them.")
    ] = None
    table: Annotated[
        Path | None,
        Option("Write the run's numbers to a .csv or .parquet file instead of serving it."),
    ] = None


def view(options: ViewOptions) -> None:
    """Show recorded runs: finished, still running, or left behind by a killed process."""
    check_port(options.port)
    console = Console(highlight=False, soft_wrap=True)
    paths = located(options.runs)
    if options.html is not None or options.table is not None:
        _write(console, paths, options.html, options.table)
        return
    runs = Runs(paths)
    shown = runs.now()  # every complaint about a file comes before the server starts
    with Server(runs, options.port, options.host) as server:
        say(console, title(shown.index))
        say(console, f"{server.url}  (press Ctrl-C to stop)")
        if server.local_url is not None:
            say(console, f"{server.local_url}  (from this machine)")
        if browser.wanted(options.open):
            browser.open_page(server.local_url or server.url)
        try:
            server.wait()
        except KeyboardInterrupt:
            several = len(paths) > 1
            console.print(f"stopped; the {'records are' if several else 'record is'} unchanged")


def _write(
    console: Console, paths: tuple[Path, ...], html: Path | None, table: Path | None
) -> None:
    if table is not None and len(paths) > 1:
        raise RecordError(f"--table {table} takes one run, not {len(paths)}; give one")
    runs = [Run(path) for path in paths]
    try:
        if html is not None:
            page = export(runs, html)
            say(console, f"wrote {page} ({_size(page)})")
        if table is not None:
            written = runs[0].save_table(table)
            say(console, f"wrote {written} ({_size(written)})")
    finally:
        for run in runs:
            run.close()


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{max(1, round(size / 1e3))} kB"
