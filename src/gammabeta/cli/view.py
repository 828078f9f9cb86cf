"""``gammabeta view``: open a recorded run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from gammabeta.cli import browser
from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import say
from gammabeta.signal.run import Run
from gammabeta.view import Server, export
from gammabeta.view.server import DEFAULT_PORT, check_port


@dataclass
class ViewOptions(Options):
    """What ``gammabeta view`` is asked for."""

    file: Annotated[Path, Option("Record of a run (.sqlite file).", positional=True, shown=False)]
    port: Annotated[
        int | None, Option("Port of the page; 0 picks a free one.", shown=str(DEFAULT_PORT))
    ] = None
    open: browser.Open = None
    html: Annotated[
        Path | None, Option("Write the run to one HTML file instead of serving it.")
    ] = None


def view(options: ViewOptions) -> None:
    """Show a recorded run: finished, still running, or left behind by a killed process."""
    check_port(options.port)
    console = Console(highlight=False, soft_wrap=True)
    with Run(options.file) as run:  # every complaint about the file comes before the server starts
        title = run.title
        if options.html is not None:
            page = export(run, options.html)
            say(console, f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
            return
    with Server(options.file, options.port) as server:
        say(console, title)
        say(console, f"{server.url}  (press Ctrl-C to stop)")
        if browser.wanted(options.open):
            browser.open_page(server.url)
        try:
            server.wait()
        except KeyboardInterrupt:
            console.print("stopped; the record is unchanged")
