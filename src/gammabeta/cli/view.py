"""``gammabeta view``: open a recorded run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gammabeta.cli import browser
from gammabeta.cli.parse import path, whole
from gammabeta.cli.terminal import say
from gammabeta.signal.run import Run
from gammabeta.view import Server, export
from gammabeta.view.server import check_port


def view(
    file: Annotated[
        Path,
        typer.Argument(parser=path, help="Record of a run (.sqlite file).", show_default=False),
    ],
    port: Annotated[
        int | None,
        typer.Option(
            parser=whole,
            metavar="COUNT",
            help="Port of the page; 0 picks a free one.",
            show_default="8501",
        ),
    ] = None,
    open_browser: Annotated[
        bool | None,
        typer.Option(
            "--open/--no-open", help="Open the page in a browser.", show_default="if there is one"
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(parser=path, help="Write the run to one HTML file instead of serving it."),
    ] = None,
) -> None:
    """Show a recorded run: finished, still running, or left behind by a killed process."""
    check_port(port)
    console = Console(highlight=False, soft_wrap=True)
    with Run(file) as run:  # every complaint about the file comes before the server starts
        title = run.title
        if html is not None:
            page = export(run, html)
            say(console, f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB)")
            return
    with Server(file, port) as server:
        say(console, title)
        say(console, f"{server.url}  (Ctrl-C ends)")
        if browser.wanted(open_browser):
            browser.open_page(server.url)
        try:
            server.wait()
        except KeyboardInterrupt:
            console.print("ended; the record is unchanged")
