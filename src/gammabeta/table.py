"""Tables of plain text, as reports print them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Lay ``rows`` out under ``heads``.

    Args:
        heads: the columns' names.
        rows: as many texts a row as there are heads.
        left: how many columns, from the first, are aligned to the left; the others to the right.

    Returns:
        Lines without trailing blanks, joined by newlines.

    Raises:
        ValueError: a row has another number of cells than ``heads``.

    Example:
        >>> print(table(["layer", "mean"], [["stem.bn", "0.5"], ["head", "12.25"]]))
        layer     mean
        stem.bn    0.5
        head     12.25
    """
    lines = [list(heads)]
    for row in rows:
        if len(row) != len(heads):
            raise ValueError(f"row {list(row)} has {len(row)} cells; the table has {len(heads)}")
        lines.append(list(row))
    widths = [max(_width(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            _pad(cell, width, left=column < left)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _width(text: str) -> int:
    """Columns ``text`` takes on a terminal: a combining mark (x̂) takes none."""
    return sum(not unicodedata.combining(character) for character in text)


def _pad(text: str, width: int, left: bool) -> str:
    blanks = " " * (width - _width(text))
    return text + blanks if left else blanks + text
