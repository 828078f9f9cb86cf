"""Draw what each layer averages over: python scripts/make_axes.py

Writes docs/layers/<page>.svg, one picture a page, all alike: rows of examples, columns of channels,
and in each block the positions; the values that share one statistic are filled. Needs Python only,
and gives the same bytes everywhere (tests/test_docs.py compares them with what is committed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

PAGES = Path(__file__).parents[1] / "docs/layers"

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


CHANNELS = Grid()
SEQUENCES = Grid(row_word="sequence", columns=("1", "2", "3"), block=(1, 7))
TIMESTEPS = Grid(
    row_word="sequence",
    column_word="timestep",
    columns=("1", "2", "3", "4", "5"),
    block=(3, 4),
    letters="ifgo",
)


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
    grid: Grid = CHANNELS
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


def groups_of_two(grid: Grid) -> Iterable[str]:
    for group in range(3):
        first, last = grid.x(2 * group), grid.x(2 * group + 1, 3) - GAP
        yield brace(first, STRIP - 2, last, STRIP - 2, 0, 5, "line")
        yield text((first + last) / 2, STRIP + 15, f"group {group + 1}", "muted small mid")


def virtual_batches(grid: Grid) -> Iterable[str]:
    right = grid.x(6) + 1
    for batch, kind in enumerate(("brace-a", "brace-b")):
        top, bottom = grid.y(2 * batch), grid.y(2 * batch + 1, 3) - GAP
        yield brace(right, top, right, bottom, 5, 0, kind)


def schedule(grid: Grid) -> Iterable[str]:
    left, right, low = PANEL + 20, WIDTH - 64, 234
    start, d_end, r_end = (left + share * (right - left) for share in (0.3, 0.62, 0.86))
    yield f'<path d="M{left} {low}H{right}" class="line"/>'
    for name, end, rise in (("d_max", d_end, 46), ("r_max", r_end, 22)):
        path = f"M{left} {low}H{number(start)}L{number(end)} {low - rise}H{right}"
        yield f'<path d="{path}" class="curve"/>'
        yield text(right + 6, low - rise + 4, name, "muted small")
    yield text(left, low - 7, "r = 1, d = 0", "muted small")
    for x, name in ((start, "warmup_steps"), (d_end, "d_steps"), (r_end, "r_steps")):
        yield text(x, low + 15, name, "muted small mid")


def curve(grid: Grid) -> Iterable[str]:
    x0, y0, half, rise = PANEL + 150, 196, 120, 42
    yield f'<path d="M{x0 - half} {y0}H{x0 + half}M{x0} {y0 - 50}V{y0 + 50}" class="line"/>'
    steps = range(-half, half + 1, 6)
    points = "L".join(f"{x0 + x} {number(y0 - rise * math.tanh(x / 34))}" for x in steps)
    yield f'<path d="M{points}" class="curve"/>'
    yield text(x0 + half + 8, y0 + 4, "x", "muted")
    yield text(x0 + 8, y0 - 50, "tanh(αx)", "muted")


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


LENGTHS = (7, 4, 2, 5)  # of the padded sequences
CHANNEL = 2  # the column that is filled
RUNNING = ("running", "oobooo".replace("b", "a"))
PER_CHANNEL = ("note", "γ, β: one pair a channel")
NO_MODES = ("note", "the same in training and evaluation")
OTHERS = ("o", "each other channel has its own")


def one_channel(cell: Cell) -> str:
    return "a" if cell[1] == CHANNEL else "o"


def one_position(cell: Cell) -> str:
    row, _, y, x = cell
    return "a" if (row, y, x) == (1, 1, 1) else "o"


def one_map(cell: Cell) -> str:
    return "a" if cell[:2] == (1, CHANNEL) else "o"


PICTURES = {
    "batch_norm": Picture(
        "Batch norm",
        "A grid of examples by channels, each block holding positions. One column, a channel in "
        "all examples at all positions, is filled: these values share one mean and variance. Below "
        "it stand the running averages.",
        one_channel,
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one channel, all examples, all positions"),
            OTHERS,
            ("diamond-a", "running averages, for evaluation"),
            PER_CHANNEL,
        ),
        strip=RUNNING,
    ),
    "layer_norm": Picture(
        "Layer norm",
        "A grid of examples by channels, each block holding positions. In one row, an example, the "
        "same position is filled in every channel: these values share one mean and variance.",
        one_position,
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one position of one example, all channels"),
            ("o", "each other position has its own"),
            PER_CHANNEL,
            NO_MODES,
        ),
    ),
    "group_norm": Picture(
        "Group norm, 3 groups",
        "A grid of examples by channels, the channels braced into three groups of two. The blocks "
        "of one group in one example are filled: these values share one mean and variance.",
        lambda cell: "a" if cell[0] == 1 and cell[1] // 2 == 1 else "o",
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one group of one example, all positions"),
            ("o", "each other group and example has its own"),
            PER_CHANNEL,
            NO_MODES,
        ),
        extra=groups_of_two,
    ),
    "instance_norm": Picture(
        "Instance norm",
        "A grid of examples by channels. One block, a channel of one example at all positions, is "
        "filled: these values share one mean and variance.",
        one_map,
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one channel of one example, all positions"),
            ("o", "each other block has its own"),
            ("note", "γ, β (affine=True): one pair a channel"),
            ("note", "running averages only if you ask for them"),
        ),
    ),
    "rms_norm": Picture(
        "RMS norm",
        "A grid of examples by channels, each block holding positions. In one row, an example, the "
        "same position is filled in every channel: these values share one mean square.",
        one_position,
        (
            ("a", "{a} values share one mean square:"),
            ("", "one position of one example, all channels"),
            ("o", "each other position has its own"),
            ("note", "no mean is subtracted"),
            ("note", "γ: one a channel; there is no β"),
            NO_MODES,
        ),
    ),
    "batch_renorm": Picture(
        "Batch renorm",
        "Batch norm's grid with one channel filled, and below it the averages over earlier "
        "batches, which correct what this batch gives. A small chart shows the bounds of the "
        "correction: flat until warmup_steps, then rising to d_max and r_max.",
        one_channel,
        (
            ("a", "{a} values share one μ and σ² …"),
            ("diamond-b", "… corrected by r and d towards the"),
            ("", "averages over earlier batches"),
            OTHERS,
            ("note", "the bounds of r and d widen over batches:"),
        ),
        strip=("earlier", "oobooo"),
        extra=schedule,
    ),
    "ghost_batch_norm": Picture(
        "Ghost batch norm",
        "A grid of examples by channels, the examples braced into two virtual batches. One column "
        "is filled in two colours: the values of a channel share one mean and variance within "
        "their virtual batch.",
        lambda cell: "o" if cell[1] != CHANNEL else "ab"[cell[0] // 2],
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one channel, one virtual batch"),
            ("b", "{b} values of the next virtual batch: another"),
            OTHERS,
            ("diamond-a", "running averages, for evaluation"),
            PER_CHANNEL,
        ),
        strip=RUNNING,
        extra=virtual_batches,
    ),
    "masked_batch_norm": Picture(
        "Masked batch norm",
        "A grid of sequences by channels, each block a row of positions. The sequences end early "
        "by different lengths, and the rest is hatched: padding. One channel's real values are "
        "filled: they share one mean and variance.",
        lambda cell: "pad" if cell[3] >= LENGTHS[cell[0]] else "a" if cell[1] == 1 else "o",
        (
            ("a", "{a} real values share one μ and σ²:"),
            ("", "one channel, all sequences"),
            ("pad", "padding: left out, whatever it holds"),
            OTHERS,
            ("diamond-a", "running averages, for evaluation"),
            PER_CHANNEL,
        ),
        grid=SEQUENCES,
        strip=("running", "oao"),
    ),
    "frozen_batch_norm": Picture(
        "Frozen batch norm",
        "A grid of examples by channels in which nothing is filled. Below it, each channel has a "
        "filled diamond: its fixed mean, variance, γ and β.",
        lambda cell: "o",
        (
            ("o", "nothing is averaged"),
            ("diamond-b", "μ, σ², γ and β of each channel, all fixed"),
            NO_MODES,
        ),
        strip=("fixed", "bbbbbb"),
    ),
    "filter_response_norm": Picture(
        "Filter response norm",
        "A grid of examples by channels. One block, a channel of one example at all positions, is "
        "filled: these values share one mean square.",
        one_map,
        (
            ("a", "{a} values share one mean square ν²:"),
            ("", "one channel of one example, all positions"),
            ("o", "each other block has its own"),
            ("note", "no mean is subtracted"),
            ("note", "γ, β and the threshold τ: one a channel"),
            NO_MODES,
        ),
    ),
    "dynamic_tanh": Picture(
        "Dynamic tanh",
        "A grid of examples by channels in which nothing is filled, beside the S-shaped curve "
        "tanh(αx) that every value goes through by itself.",
        lambda cell: "o",
        (
            ("o", "nothing is averaged: each value goes"),
            ("", "through one curve, whose slope α is learned"),
            PER_CHANNEL,
        ),
        extra=curve,
    ),
    "recurrent_batch_norm_lstm": Picture(
        "Recurrent batch norm",
        "A grid of sequences by timesteps, each block the inputs of the four gates. One gate input "
        "is filled in all sequences, in another colour at each timestep: each timestep has its own "
        "mean and variance, and its own running averages, of which the last serves all later ones.",
        lambda cell: "o" if cell[1] > 2 or cell[2:] != (1, 1) else "abc"[cell[1]],
        (
            ("a", "{a} values share one μ and σ²:"),
            ("", "one gate input, one timestep, all sequences"),
            ("b", "the next timestep has its own"),
            ("c", "timestep max_length, here 3"),
            ("diamond-c", "its running averages serve later ones too"),
            ("note", "γ, β: shared by all timesteps"),
            ("note", "the cell c is normalized likewise"),
        ),
        grid=TIMESTEPS,
        strip=("running", "abccc"),
    ),
    "layer_norm_lstm": Picture(
        "Layer norm LSTM",
        "A grid of sequences by timesteps, each block the inputs of the four gates. One block is "
        "filled: all gate inputs of one sequence at one timestep share one mean and variance.",
        lambda cell: "a" if cell[:2] == (1, 1) else "o",
        (
            ("a", "{a} values share one μ and σ²: all gates"),
            ("", "i, f, g, o of one sequence at one timestep"),
            ("o", "each other block has its own"),
            ("note", "the cell c is normalized likewise"),
            NO_MODES,
        ),
        grid=TIMESTEPS,
    ),
}


def pictures() -> dict[str, str]:
    """Return file name → SVG."""
    return {f"{page}.svg": draw(picture) for page, picture in PICTURES.items()}


def main() -> None:
    for name, svg in pictures().items():
        (PAGES / name).write_text(svg, encoding="utf-8", newline="\n")
    print(f"wrote {len(PICTURES)} pictures in {PAGES}")


if __name__ == "__main__":
    main()
