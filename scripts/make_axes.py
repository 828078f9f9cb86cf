"""Draw what each layer averages over: python scripts/make_axes.py

Writes docs/layers/<page>.svg, one picture a page, all alike: rows of examples, columns of channels,
and in each block the positions; the values that share one statistic are filled. Needs Python only,
and gives the same bytes everywhere (tests/test_docs.py compares them with what is committed).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from axes_drawing import (
    GAP,
    PANEL,
    STRIP,
    WIDTH,
    Cell,
    Grid,
    Picture,
    brace,
    draw,
    number,
    text,
)

PAGES = Path(__file__).parents[1] / "docs/layers"

SEQUENCES = Grid(row_word="sequence", columns=("1", "2", "3"), block=(1, 7))
TIMESTEPS = Grid(
    row_word="sequence",
    column_word="timestep",
    columns=("1", "2", "3", "4", "5"),
    block=(3, 4),
    letters="ifgo",
)


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


LENGTHS = (7, 4, 2, 5)  # of the padded sequences
CHANNEL = 2  # the column that is filled
RUNNING = ("running", "ooaooo")
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
