"""Fewer steps: how many times sooner a stack with batch norm is where the one without ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gammabeta.lab.claims.framework.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Curves, Net, curves, ratio_number, ratios
from gammabeta.lab.claims.framework.fewer_steps_figure import draw
from gammabeta.lab.claims.framework.training import CALIBRATION

ENOUGH = 10.0
"""Times fewer steps, at least, for the claim to hold; the paper has 14."""
CHANCE, LEARNED = 0.15, 0.85


@dataclass(frozen=True)
class Experiment:
    """One network's grid of rates and number of steps, full and quick."""

    net: Net
    rates: tuple[float, ...]
    quick_rates: tuple[float, ...]
    steps: int
    quick_steps: int


SMALL = Experiment(
    Net(3, "sigmoid", sigma=0.01), (0.1, 0.3, 1.0, 3.0), (0.3, 1.0, 3.0), 20_000, 5_000
)
THREE = Experiment(Net(3, "sigmoid"), (0.1, 0.3, 1.0, 3.0), (0.1, 0.3, 1.0), 20_000, 3_000)
FIVE = Experiment(Net(5, "sigmoid"), (0.1, 0.3, 1.0, 3.0), (0.1, 0.3, 1.0), 30_000, 6_000)
SEVEN = Experiment(Net(7, "sigmoid"), (0.1, 0.3, 1.0, 3.0), (0.1, 0.3, 1.0), 30_000, 3_000)
TEN = Experiment(Net(10, "sigmoid"), (0.1, 0.3, 1.0), (0.3, 1.0), 6_000, 3_000)
TWENTY = Experiment(Net(20, "relu"), (0.01, 0.03, 0.1, 0.3), (0.03, 0.1), 8_000, 1_500)
EXPERIMENTS = (SMALL, THREE, FIVE, SEVEN, TEN, TWENTY)
TOLD = (0.5, 0.7, 0.8)
"""Accuracies at which the ratio is also reported, because it falls towards the best one."""
MATCHED = 0.1
"""The rate at which the 5-layer sigmoid is compared at a matched rate."""


def run(context: Context) -> Outcome:
    """Train every network of `EXPERIMENTS` over its grid, and compare."""
    context.plan((2 * len(EXPERIMENTS) + 1) * len(context.seeds))
    found = {
        experiment: curves(
            context,
            experiment.net,
            experiment.quick_rates if context.quick else experiment.rates,
            context.steps(experiment.steps, experiment.quick_steps),
            ("none", "batch"),
        )
        for experiment in EXPERIMENTS
    }
    five = found[FIVE]
    decisive = ratio_number(
        f"{FIVE.net.title()}: times fewer steps, both at rate {MATCHED:g}",
        five.matched(MATCHED),
        paper="14 × (Inception, ImageNet)",
        target=f"≥ {ENOUGH:g} ×",
    )
    without, with_norm = found[TEN].best_final("none"), found[TEN].best_final("batch")
    ten = [
        Number.over(
            f"{TEN.net.title()}: accuracy without, best rate",
            without,
            "%",
            target="chance",
        ),
        Number.over(
            f"{TEN.net.title()}: accuracy with, best rate", with_norm, "%", target="≥ 85 %"
        ),
    ]
    steps = context.steps(FIVE.steps, FIVE.quick_steps)
    told = [
        _calibrated(five, curves(context, FIVE.net, [MATCHED], steps, ["batch"], calibrated=True)),
        *(_to(five, target) for target in TOLD),
    ]
    everything = [number for each in found.values() for number in _ratios(each)]
    everywhere = all(number.value >= ENOUGH for number in everything)
    reached = decisive.value >= ENOUGH and ten[0].value <= CHANCE and ten[1].value >= LEARNED
    verdict = HOLDS if reached and everywhere else UNDER_THIS_PROTOCOL if reached else DOES_NOT_HOLD
    least = min(everything, key=lambda number: number.value)
    most = max(everything, key=lambda number: number.value)
    depths = [found[e] for e in EXPERIMENTS if e.net.activation == "sigmoid" and not e.net.sigma]
    by_depth = ", ".join(f"{_ratios(each)[0].text()} at {each.net.depth} layers" for each in depths)
    because = (
        f"At a matched rate the 5-layer sigmoid needs {decisive.text()} fewer steps (at least "
        f"{ENOUGH:g} × asked), and the 10-layer sigmoid goes from {ten[0].text()} to "
        f"{ten[1].text()}. Over all networks and both protocols the ratio runs from "
        f"{least.text()} to {most.text()}: it depends on depth, initialization and rate. For "
        f"sigmoids from Glorot's weights, each side at its own best rate, it is {by_depth}."
    )
    figure = context.figure("ratio")
    draw(figure, list(found.values()))
    # One number would flatter or belittle: the range is the answer.
    paper_net = _ratios(found[SMALL])[0]
    headline = (
        f"{least.text()} to {most.text()}: fewer steps, by network and protocol; "
        f"{paper_net.text()} for the paper's network, each arm at its own best rate"
    )
    ends = [_at_an_end(each) for each in found.values()]
    note = "At an end of its grid, so that a wider one may say otherwise, is the best rate of: "
    notes = [note + "; ".join(filter(None, ends)) + "."] if any(ends) else []
    numbers = [decisive, *ten, *everything, *told]
    return Outcome(numbers, verdict, because, [figure], notes, headline)


def _at_an_end(each: Curves) -> str:
    """Name the sides whose best rate is the first or the last of the grid; empty if none is."""
    slow, fast, _ = each.own_best()
    ends = (min(each.rates), max(each.rates))
    sides = [side for side, rate in (("without", slow), ("with", fast)) if rate in ends]
    return f"{each.net.title()} {' and '.join(sides)}" if sides else ""


def _calibrated(each: Curves, found: Curves) -> Number:
    """The ratio at the matched rate, with the statistics of Algorithm 2: it decides nothing."""
    label = f"{each.net.title()}: both at rate {MATCHED:g}, statistics by Algorithm 2 "
    pairs = ratios(each.of["none"][MATCHED], found.of["batch"][MATCHED])
    return ratio_number(label + "(reported, not scored)", pairs)


def _to(each: Curves, target: float) -> Number:
    """The ratio to reach ``target``, both at the matched rate: it decides nothing."""
    pairs = zip(each.of["none"][MATCHED], each.of["batch"][MATCHED], strict=True)
    reached = [(slow.reach(target), fast.reach(target)) for slow, fast in pairs]
    values = [math.nan if math.isinf(fast) else slow / fast for slow, fast in reached]
    label = f"{each.net.title()}: both at rate {MATCHED:g}, to {target:.0%} (reported, not scored)"
    return Number.over(label, values, "×")


def _ratios(each: Curves) -> list[Number]:
    """Both protocols of one network."""
    rate, fastest, own = each.own_best()
    title = each.net.title()
    return [
        ratio_number(
            f"{title}: times fewer steps, each at its own best rate ({rate:g}, {fastest:g})", own
        ),
        ratio_number(f"{title}: both at rate {rate:g}, the best without", each.matched(rate)),
    ]


_LISTING = "; ".join(
    f"{e.net.title()} ({e.steps:,} steps, rates {', '.join(f'{r:g}' for r in e.rates)}; quick "
    f"{e.quick_steps:,}, {', '.join(f'{r:g}' for r in e.quick_rates)})"
    for e in EXPERIMENTS
)

CLAIM = Claim(
    name="fewer-steps",
    title="Fewer steps to the same accuracy",
    statement="Batch normalization reaches the accuracy of the network without it in many times "
    "fewer training steps.",
    source="Ioffe & Szegedy 2015, abstract, sections 4.1 and 4.2, figures 1a and 2",
    protocol="Stacks of 100 units a layer on Fashion-MNIST, mini-batches of 60, plain SGD at a "
    f"constant rate, every rate of a grid, with and without batch norm: {_LISTING}. Both arms "
    "start from the same weights and see the same mini-batches. Test accuracy is measured on "
    "2,000 fixed test images at steps 6 % apart. The target is the best accuracy the network "
    "without batch norm ever reaches; the ratio is its steps to it over those with. Own best: the "
    "rate of the grid with the best accuracy without, and the one that is first at that accuracy "
    "with. Matched: both at one rate. A network that stays below 50 % does not train: the target "
    "is then 50 % and the ratio a lower bound. Told beside, and deciding nothing: the matched "
    f"ratio with population statistics by Algorithm 2 on {CALIBRATION} training mini-batches "
    "before each test in place of the moving averages, and that to lower accuracies. These and the "
    "7 layers were added after the others had run, before their own runs.",
    criterion=f"The 5-layer sigmoid at a matched rate of {MATCHED:g} needs at least {ENOUGH:g} "
    f"times fewer steps, and the 10-layer sigmoid stays at chance (≤ {CHANCE:.0%}) without at "
    f"every rate and reaches {LEARNED:.0%} with. If so, and if the ratio is at least {ENOUGH:g} "
    "for every network under both protocols, the claim holds; if so but not everywhere, it holds "
    "under this protocol; else it does not hold here.",
    paper="14 × fewer (Inception: 31.0 → 2.1 million steps)",
    minutes_quick=5,
    minutes_full=55,
    run=run,
)
