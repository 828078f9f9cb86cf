"""Higher learning rates: the highest rate that trains, without and with batch norm."""

from __future__ import annotations

from gammabeta.lab.claims.framework import grid
from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Net
from gammabeta.lab.claims.framework.fit import follow
from gammabeta.lab.claims.framework.grid_figure import draw_maps

ENOUGH = 5.0
"""Times higher, at least; at 5 times its rate the paper's baseline was lost."""

BOLD, BOLD_RATE = Net(10, "relu", scale=4.0), 0.2
_RECORDED_STEPS = 200


def run(context: Context) -> Outcome:
    """Train the grids, and look along the learning rate."""
    context.plan(grid.runs(context) + 1)
    context.run({"recorded": BOLD.title(), "rate": BOLD_RATE}, lambda: _record(context))
    grids = [grid.grid(context, net) for net in grid.NETS]
    ratios, details = [], []
    for each in grids:
        highest = {norm: each.highest_rates(norm) for norm in ("none", "batch")}
        ratios.append(
            Number.over(
                f"{each.net.title()}: highest rate that trains, with over without",
                each.rate_ratios(),
                "×",
                paper="trains at 30 ×; lost at 5 × without",
                target=f"≥ {ENOUGH:g} ×",
            )
        )
        for norm, word in (("none", "without"), ("batch", "with")):
            label = f"{each.net.title()}: highest rate that trains {word}"
            details.append(Number.over(label, highest[norm]))
    reached = [number.value >= ENOUGH for number in ratios]
    because = (
        f"From Glorot's weights the highest rate that trains is {ratios[0].text()} as high with "
        f"batch norm for {grids[0].net.title()} and {ratios[1].text()} for "
        f"{grids[1].net.title()}; target ≥ {ENOUGH:g} ×."
    )
    figure = context.figure("maps")
    draw_maps(figure, grids)
    return Outcome([*ratios, *details], verdict(reached), because, [figure])


def _record(context: Context) -> dict[str, str]:
    """A pair to be looked at: bold weights and a bold rate, lost without, not with."""
    data, path = context.images(), context.record("bold")
    arms = {
        name: (BOLD.build(data.train_x.shape[1], data.classes, norm, 0), BOLD_RATE)
        for name, norm in (("without", "none"), ("with batch norm", "batch"))
    }
    title = f"{BOLD.title()} · lr {BOLD_RATE:g}"
    follow(arms, data, path, title, steps=context.steps(_RECORDED_STEPS), seed=0)
    return {"record": path.name}


CLAIM = Claim(
    name="higher-learning-rates",
    title="Higher learning rates",
    statement="Batch normalization lets a network train at learning rates at which it is lost "
    "without.",
    source="Ioffe & Szegedy 2015, sections 3.3 and 4.2.2",
    protocol=grid.PROTOCOL,
    criterion="The highest rate of the grid that trains from Glorot's own scale is at least "
    f"{ENOUGH:g} times higher with batch norm, in the median over seeds. Both networks: the claim "
    "holds; one of them: it holds under this protocol; neither: it does not hold here.",
    paper="trains at 30 × the rate; without, lost at 5 ×",
    minutes_quick=2.5,
    minutes_full=27,
    run=run,
)
