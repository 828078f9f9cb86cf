"""What is printed to a terminal: one line at a time, without what a terminal would obey."""

from __future__ import annotations

from rich.console import Console


def printable(text: object) -> str:
    """Return ``text`` with � for each control character: file names may hold any.

    Example:
        >>> printable("a\\x1b[2J\\nb")
        'a�[2J�b'
    """
    return "".join(c if c.isprintable() else "�" for c in str(text))


def say(console: Console, line: str) -> None:
    """Print ``line`` as it is, without markup and without control characters."""
    console.print(printable(line), markup=False)
