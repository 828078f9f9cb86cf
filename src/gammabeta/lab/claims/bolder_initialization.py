"""Bolder initialization: how much of the grid of rate × scale trains at all."""

from __future__ import annotations

import math

import numpy as np

from gammabeta.lab.claims.framework import grid
from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.grid_figure import draw_scales

ENOUGH = 5.0
"""Times more of the grid, at least."""


def run(context: Context) -> Outcome:
    """Train the grids (or take what `higher-learning-rates` has kept), and count the cells."""
    context.plan(grid.runs(context))
    grids = [grid.grid(context, net) for net in grid.NETS]
    ratios, details = [], []
    for each in grids:
        title = each.net.title()
        ratios.append(
            Number.over(
                f"{title}: area that trains, with over without",
                each.area_ratios(),
                "×",
                target=f"≥ {ENOUGH:g} ×",
            )
        )
        cells = len(each.rates) * len(each.scales)
        for norm, word in (("none", "without"), ("batch", "with")):
            share = [area / cells for area in each.areas(norm)]
            details.append(
                Number.over(f"{title}: share of the grid that trains {word}", share, "%")
            )
            lost = [float(np.mean(seed)) for seed in each.diverged[norm]]
            details.append(Number.over(f"{title}: share that diverged {word}", lost, "%"))
            details.append(
                Number.over(
                    f"{title}: largest over smallest scale that trains {word}",
                    each.scale_ranges(norm),
                    "×",
                )
            )
    reached = [number.value >= ENOUGH for number in ratios]
    order = sorted(zip(ratios, grids, strict=True), key=lambda pair: -_finite(pair[0].value))
    because = "; ".join(
        f"with batch norm {_median(each, 'batch')} cells of the grid train for "
        f"{each.net.title()}, without {_median(each, 'none')}: {number.text()}"
        for number, each in order
    )
    figure = context.figure("scales")
    draw_scales(figure, grids)
    numbers = [number for number, _ in order]
    because = f"{because[0].upper()}{because[1:]}. Target ≥ {ENOUGH:g} ×."
    return Outcome([*numbers, *details], verdict(reached), because, [figure])


def _median(each: grid.Grid, norm: str) -> int:
    return sorted(each.areas(norm))[(len(each.areas(norm)) - 1) // 2]


def _finite(value: float) -> float:
    return value if not math.isnan(value) else -math.inf


CLAIM = Claim(
    name="bolder-initialization",
    title="Less care about initialization",
    statement="With batch normalization one can be less careful about initialization: much more of "
    "the plane of learning rate × initial scale trains.",
    source="Ioffe & Szegedy 2015, abstract and section 3.3: BN(Wu) = BN((aW)u)",
    protocol=grid.PROTOCOL,
    criterion="The number of cells of the grid that train is at least "
    f"{ENOUGH:g} times larger with batch norm, in the median over seeds. Both networks: the claim "
    "holds; one of them: it holds under this protocol; neither: it does not hold here.",
    paper="no number",
    minutes_quick=0.1,
    minutes_full=0.1,
    run=run,
    after=("higher-learning-rates",),
)
