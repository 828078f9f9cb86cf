"""Figures of the grid: a map of accuracy with the diverged region marked; accuracy over scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gammabeta.lab.claims.framework.figure import BAD, COOL, LINE, MUTED, WARM, band, labels, sheet
from gammabeta.lab.claims.framework.grid import TRAINS, Grid

_NAMES = {"none": "without", "batch": "with batch norm"}
_COLOURS = {"none": WARM, "batch": COOL}


def draw_maps(path: Path, grids: Sequence[Grid]) -> None:
    """Draw accuracy over rate × scale: a row a network, a column an arm."""
    told = "; ".join(
        f"{each.net.title()}: {_share(each, 'none')} of the grid trains without, "
        f"{_share(each, 'batch')} with batch norm"
        for each in grids
    )
    with sheet(
        path,
        f"Test accuracy over learning rate and initial scale, without and with batch "
        f"normalization; crosses mark what diverged. {told}.",
        columns=2,
        rows=len(grids),
        panel=(4.2, 3.1),
    ) as drawn:
        drawn.figure.suptitle(
            f"size: accuracy above chance; grey: below {TRAINS:.0%}; ×: diverged",
            x=0.01,
            ha="left",
            fontsize=8.5,
            color=MUTED,
        )
        panels = iter(drawn.panels)
        for each in grids:
            for norm, name in _NAMES.items():
                axes = next(panels)
                accuracy = np.median(each.accuracy[norm], 0)
                lost = each.diverged[norm].mean(0) > 0.5
                rows, columns = accuracy.shape
                trains = (accuracy >= TRAINS) & ~lost
                # The area of a square is the accuracy above chance: it reads without colour, and
                # in print.
                area = 290 * np.maximum(accuracy - 0.1, 0.004) / 0.9 * min(1, 7 / rows) ** 2
                for chosen, colour, alpha in (
                    (trains, _COLOURS[norm], 1.0),
                    (~trains & ~lost, MUTED, 0.45),
                ):
                    row, column = np.nonzero(chosen)
                    axes.scatter(
                        column, row, area[chosen], color=colour, alpha=alpha, marker="s", lw=0
                    )
                row, column = np.nonzero(lost)
                axes.plot(column, row, "x", color=BAD, markersize=6, mew=1.4)
                axes.set_xlim(-0.6, columns - 0.4)
                axes.set_ylim(-0.6, rows - 0.4)
                axes.set_xticks(range(0, columns, 2 if columns > 7 else 1))
                axes.set_xticklabels([_short(s) for s in each.scales[:: 2 if columns > 7 else 1]])
                axes.set_yticks(range(rows))
                axes.set_yticklabels([f"{rate:.2g}" for rate in each.rates])
                title = f"{_short_title(each)}, {name}: {_share(each, norm)} trains"
                axes.set_title(title, color=_COLOURS[norm])
                axes.set_xlabel("scale of the initial weights (× Glorot)")
                axes.set_ylabel("learning rate")
                axes.spines[["left", "bottom"]].set_visible(False)
                axes.tick_params(length=0)


def draw_scales(path: Path, grids: Sequence[Grid]) -> None:
    """Draw the accuracy at the best rate for each scale."""
    with sheet(
        path,
        "Test accuracy over the scale of the initial weights, each scale at its best learning "
        "rate, without and with batch normalization.",
        columns=len(grids),
        panel=(4.0, 2.9),
        sharey=True,
    ) as drawn:
        for axes, each in zip(drawn.panels, grids, strict=True):
            ends = []
            for norm, name in _NAMES.items():
                seeds = 100 * each.accuracy[norm].max(1)  # over the rates
                ends.append(
                    band(axes, each.scales, seeds, _COLOURS[norm], name, marker="o", ms=3.5)
                )
            axes.axhline(100 * TRAINS, color=LINE, zorder=0)
            axes.annotate(
                "trains",
                (each.scales[0], 100 * TRAINS),
                color=MUTED,
                fontsize=8,
                xytext=(0, 2),
                textcoords="offset points",
            )
            axes.set_xscale("log", base=2)
            axes.set_xticks(each.scales)
            axes.set_xticklabels([_short(scale) for scale in each.scales])
            axes.minorticks_off()
            axes.set_ylim(0, 100)
            axes.set_title(each.net.title())
            axes.set_xlabel("scale of the initial weights (× Glorot)")
            labels(axes, ends, 9)
        drawn.panels[0].set_ylabel("test accuracy (%)")


def _share(each: Grid, norm: str) -> str:
    return f"{each.trains(norm).mean():.0%}"


def _short_title(each: Grid) -> str:
    return each.net.title().split(",")[0]


def _short(scale: float) -> str:
    return f"1/{1 / scale:.2g}" if scale < 0.99 else f"{scale:.3g}"
