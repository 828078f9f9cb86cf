"""Numbers and paths on the command line, refused by name and value."""

from __future__ import annotations

from pathlib import Path

import typer


def number(text: str) -> float:
    """Return ``text`` as a float; `typer.BadParameter` if it is none."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number, such as 0.5 or 1e-3") from None


def whole(text: str) -> int:
    """Return ``text`` as an int; `typer.BadParameter` if it is none."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number, such as 64") from None


def path(text: str | Path) -> Path:
    """Return ``text`` as a path, ``~`` as the home folder; `typer.BadParameter` if it is empty."""
    if not str(text):
        raise typer.BadParameter(f"{text!r} is not a path; give the path of a file or folder")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise typer.BadParameter(
            f"{text!r} names no home folder; give the full path, or ./{text} if that is its name"
        ) from None
