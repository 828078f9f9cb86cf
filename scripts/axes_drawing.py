"""How the pictures of `make_axes` are drawn: blocks of cells, a legend beside them, as SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

WIDTH, HEIGHT = 740, 270
LEFT, TOP, HEAD = 98, 50, 32
CELL, GAP, BLOCK_GAP = 11, 2, 8
STRIP = 238  # the row of running averages, or the braces of groups
PANEL, LINE = 404, 20

# Own background: a picture is shown on pages whose theme it cannot know.
STYLE = """
.card{fill:#fcfbf9;stroke:#d8d4cc}.ink{fill:#1c1e22}.muted{fill:#63666d}
.o,.pad{fill:#ffffff;stroke:#b9b5ad}.a{fill:#0f6e84;stroke:#0f6e84}
.b{fill:#c7581a;stroke:#c7581a}.c{fill:#7a5195;stroke:#7a5195}
.hatch{stroke:#b9b5ad}.line{fill:none;stroke:#8a8780}
.curve{fill:none;stroke:#1c1e22;stroke-width:1.5}
.brace-a{fill:none;stroke:#0f6e84;stroke-width:2}.brace-b{fill:none;stroke:#c7581a;stroke-width:2}
text{font:13px system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif}
.title{font-size:15px;font-weight:600}.small{font-size:11px}.mid{text-anchor:middle}
.end{text-anchor:end}
@media (prefers-color-scheme:dark){
.card{fill:#14161a;stroke:#2e323a}.ink{fill:#ecebe8}.muted{fill:#a0a4ac}
.o,.pad{fill:#1c1f25;stroke:#555a64}.a{fill:#5ccbe2;stroke:#5ccbe2}
.b{fill:#ff9d5c;stroke:#ff9d5c}.c{fill:#c9a2e6;stroke:#c9a2e6}
.hatch{stroke:#555a64}.line{stroke:#7f838b}
.curve{stroke:#ecebe8}.brace-a{stroke:#5ccbe2}.brace-b{stroke:#ff9d5c}}
"""

Cell = tuple[int, int, int, int]
"""Row and column of the block, row and column in the block; all from 0."""


@dataclass(frozen=True)
class Grid:
    """Blocks in rows and columns; each block is cells in rows and columns."""

    row_word: str = "example"
    column_word: str = "channel"
    columns: tuple[str, ...] = ("1", "2", "3", "4", "5", "6")
    block: tuple[int, int] = (3, 3)
    letters: str = ""  # over the cells of a block
    rows: int = 4

    def x(self, column: int, cell: float = 0) -> float:
        width = self.block[1] * (CELL + GAP) - GAP + BLOCK_GAP
        return LEFT + column * width + cell * (CELL + GAP)

    def y(self, row: int, cell: float = 0) -> float:
        # Blocks of one row keep the distance of blocks of three.
        return TOP + row * 45 + (3 - self.block[0]) / 2 * (CELL + GAP) + cell * (CELL + GAP)

    def middle(self, column: int) -> float:
        return self.x(column, self.block[1] / 2) - GAP / 2


@dataclass(frozen=True)
class Picture:
    """One picture.

    Attributes:
        title: over the legend.
        alt: what there is to see, for those who do not.
        paint: the class a cell is drawn in.
        legend: class and text of each line; {a} is the number of cells of class a.
        strip: label, and class for each column, of the row below the grid.
        extra: what else is drawn.
    """

    title: str
    alt: str
    paint: Callable[[Cell], str]
    legend: tuple[tuple[str, str], ...]
    grid: Grid = Grid()
    strip: tuple[str, str] | None = None
    extra: Callable[[Grid], Iterable[str]] = lambda grid: ()


def number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{number(x)}" y="{number(y)}" class="{kind}">{words}</text>'


def square(x: float, y: float, kind: str) -> str:
    size = CELL - 1  # the stroke is half outside
    at = f'x="{number(x + 0.5)}" y="{number(y + 0.5)}"'
    drawn = f'<rect {at} width="{size}" height="{size}" rx="1.5" class="{kind}"/>'
    if kind == "pad":
        strokes = ((0.5, 5.5, 5.5, 0.5), (0.5, 10.5, 10.5, 0.5), (5.5, 10.5, 10.5, 5.5))
        path = "".join(
            f"M{number(x + x1)} {number(y + y1)}L{number(x + x2)} {number(y + y2)}"
            for x1, y1, x2, y2 in strokes
        )
        drawn += f'<path d="{path}" class="hatch"/>'
    return drawn


def diamond(x: float, y: float, kind: str) -> str:
    return f'<path d="M{number(x)} {number(y - 6)}l6 6l-6 6l-6 -6z" class="{kind}"/>'


def brace(x1: float, y1: float, x2: float, y2: float, dx: float, dy: float, kind: str) -> str:
    """A line from one point to the other with its ends bent by (dx, dy)."""
    points = ((x1 - dx, y1 - dy), (x1, y1), (x2, y2), (x2 - dx, y2 - dy))
    path = "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)
    return f'<path d="{path}" class="{kind}"/>'


def draw(picture: Picture) -> str:
    """Return the picture as SVG."""
    grid = picture.grid
    rows, columns = grid.block
    parts: list[str] = []
    counts: dict[str, int] = {"a": 0, "b": 0}
    head = HEAD - 8 if grid.letters else HEAD
    parts.append(text(LEFT - 14, head, grid.column_word, "muted end"))
    for column, label in enumerate(grid.columns):
        parts.append(text(grid.middle(column), head, label, "muted mid"))
        for cell, letter in enumerate(grid.letters):
            parts.append(text(grid.x(column, cell) + CELL / 2, TOP - 8, letter, "muted small mid"))
    for row in range(grid.rows):
        label = f"{grid.row_word} {row + 1}"
        parts.append(text(LEFT - 14, TOP + row * 45 + 23, label, "muted end"))
        for column in range(len(grid.columns)):
            for y in range(rows):
                for x in range(columns):
                    kind = picture.paint((row, column, y, x))
                    counts[kind] = counts.get(kind, 0) + 1
                    parts.append(square(grid.x(column, x), grid.y(row, y), kind))
    if picture.strip is not None:
        label, kinds = picture.strip
        parts.append(text(LEFT - 14, STRIP + 9, label, "muted end"))
        parts += [diamond(grid.middle(i), STRIP + 4, kind) for i, kind in enumerate(kinds)]
    parts.append(text(PANEL, HEAD, picture.title, "ink title"))
    line, last = TOP + 10, ""
    for kind, words in picture.legend:
        if kind == "note" != last:
            line += 6
        if kind.startswith("diamond-"):
            parts.append(diamond(PANEL + 5.5, line - 4, kind.removeprefix("diamond-")))
        elif kind in ("a", "b", "c", "o", "pad"):
            parts.append(square(PANEL, line - 10, kind))
        colour = "muted" if kind == "note" else "ink"
        parts.append(text(PANEL + 20, line, words.format(**counts), colour))
        line, last = line + LINE, kind
    parts += picture.extra(grid)
    body = "\n".join(parts)
    box = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    inner = f'width="{WIDTH - 1}" height="{HEIGHT - 1}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" aria-labelledby="t d">\n'
        f'<title id="t">{picture.title}: what is averaged</title>\n'
        f'<desc id="d">{picture.alt}</desc>\n'
        f"<style>{STYLE}</style>\n"
        f'<rect x="0.5" y="0.5" {inner} rx="8" class="card"/>\n'
        f"{body}\n</svg>\n"
    )
