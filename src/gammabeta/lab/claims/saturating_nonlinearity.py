"""Saturating nonlinearities: a deep sigmoid stack, at chance without batch norm."""

from __future__ import annotations

from gammabeta.lab.claims.fewer_steps import TEN
from gammabeta.lab.claims.framework.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import curves
from gammabeta.lab.claims.framework.curves_figure import draw_curves
from gammabeta.lab.claims.framework.fit import follow

CHANCE, LEARNED, PARTLY = 0.15, 0.85, 0.5
_RECORDED_STEPS = 300


def run(context: Context) -> Outcome:
    """Train the 10-layer sigmoid over its rates (or take what `fewer-steps` has kept)."""
    context.plan(2 * len(context.seeds) + 1)
    steps = context.steps(TEN.steps, TEN.quick_steps)
    rates = TEN.quick_rates if context.quick else TEN.rates
    found = curves(context, TEN.net, rates, steps, ("none", "batch"))
    title = TEN.net.title()
    without = Number.over(
        f"{title}: accuracy without, best rate",
        found.best_final("none"),
        "%",
        paper="0.1 % (chance, 1000 classes)",
        target="chance",
    )
    with_norm = Number.over(
        f"{title}: accuracy with, best rate",
        found.best_final("batch"),
        "%",
        paper="69.8 % (BN-x5-Sigmoid)",
        target="≥ 85 %",
    )
    context.run({"recorded": title, "steps": _RECORDED_STEPS}, lambda: _record(context))
    ever = max(
        max(curve.best(), curve.final) for rate in found.of["none"].values() for curve in rate
    )
    if ever <= CHANCE and with_norm.value >= LEARNED:
        verdict = HOLDS
    elif with_norm.value >= max(PARTLY, 2 * without.value):
        verdict = UNDER_THIS_PROTOCOL
    else:
        verdict = DOES_NOT_HOLD
    because = (
        f"At its best of the rates {', '.join(f'{rate:g}' for rate in rates)}, after {steps:,} "
        f"steps, the network has {without.text()} without batch norm and {with_norm.text()} with "
        f"it; chance is 10 %. Without it no seed had more than {100 * ever:.1f} % at any rate or "
        "time."
    )
    figure = context.figure("curves")
    draw_curves(figure, found)
    return Outcome([with_norm, without], verdict, because, [figure])


def _record(context: Context) -> dict[str, str]:
    """A pair to be looked at: how the signal dies without, and does not with."""
    data, path = context.images(), context.record("ten-layers")
    steps = context.steps(_RECORDED_STEPS)
    arms = {
        name: (TEN.net.build(data.train_x.shape[1], data.classes, norm, 0), 0.3)
        for name, norm in (("without", "none"), ("with batch norm", "batch"))
    }
    follow(arms, data, path, f"{TEN.net.title()} · lr 0.3", steps=steps, seed=0)
    return {"record": path.name}


CLAIM = Claim(
    name="saturating-nonlinearity",
    title="Training with saturating nonlinearities",
    statement="Batch normalization makes it possible to train deep networks of sigmoids, which "
    "without it stay at chance.",
    source="Ioffe & Szegedy 2015, abstract and section 4.2.2 (BN-x5-Sigmoid)",
    protocol=f"{TEN.net.title()}, on Fashion-MNIST, mini-batches of 60, plain SGD at every rate of "
    f"{', '.join(f'{rate:g}' for rate in TEN.rates)} for {TEN.steps:,} steps (quick: "
    f"{', '.join(f'{rate:g}' for rate in TEN.quick_rates)}, {TEN.quick_steps:,} steps). Each arm "
    "counts with the rate that is best for it, on the whole test set. Sigmoid Inception is part of "
    "the claim called inception.",
    criterion=f"Without batch norm no seed exceeds {CHANCE:.0%} at any rate's best and with it the "
    f"median reaches {LEARNED:.0%}: the claim holds. With it at least {PARTLY:.0%} and twice what "
    "is reached without: it holds under this protocol. Else it does not hold here.",
    paper="69.8 % with, chance without (sigmoid Inception)",
    minutes_quick=0.1,
    minutes_full=0.2,
    run=run,
    after=("fewer-steps",),
)
