"""Open a page in a person's browser, where there is a person and a browser."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser


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
