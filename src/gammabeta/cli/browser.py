"""Open a page in a person's browser, where there is a person and a browser."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from typing import Annotated

from gammabeta.cli.options import Option

Open = Annotated[
    bool | None,
    Option("Open the page in a browser.", name="--open/--no-open", shown="if there is one"),
]
"""The option of the commands that can open one, for `wanted`."""


def wanted(asked: bool | None) -> bool:
    """Whether to open a browser: as asked, else if a person at a terminal has a display."""
    if asked is not None:
        return asked
    display = sys.platform in ("win32", "darwin") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return display and sys.stdout.isatty()


def open_page(url: str) -> None:
    """Open ``url``; a browser that will not start is no error, the address has been printed."""
    with contextlib.suppress(webbrowser.Error):
        webbrowser.open(url)
