"""How many times fewer steps: worked out by hand."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from gammabeta.lab.claims.framework.curves import (
    Curve,
    Curves,
    Fewer,
    Net,
    fewer,
    ratio_number,
    ratios,
    soonness,
)
from gammabeta.lab.claims.framework.training import population_statistics
from gammabeta.lab.data.flat import load

STEPS = [10, 20, 40, 80]


def curve(*accuracy: float) -> Curve:
    return Curve(STEPS, accuracy, accuracy[-1])


@pytest.mark.parametrize(
    ("slow", "fast", "ratio"),
    [
        # The target is the best of the slow one, not its last.
        (curve(0.1, 0.3, 0.8, 0.7), curve(0.2, 0.9, 0.9, 0.9), Fewer(2.0, "")),
        (curve(0.1, 0.3, 0.5, 0.8), curve(0.8, 0.9, 0.9, 0.9), Fewer(8.0, "")),
        (curve(0.8, 0.8, 0.8, 0.8), curve(0.2, 0.3, 0.8, 0.9), Fewer(0.25, "")),
        # It does not train: at least all its steps over those to 50 %.
        (curve(0.1, 0.1, 0.1, 0.2), curve(0.2, 0.5, 0.8, 0.9), Fewer(4.0, "≥")),
        # The other never gets there.
        (curve(0.1, 0.8, 0.9, 0.9), curve(0.2, 0.3, 0.4, 0.5), Fewer(0.5, "≤")),
    ],
)
def test_fewer(slow: Curve, fast: Curve, ratio: Fewer) -> None:
    assert fewer(slow, fast) == ratio


@pytest.fixture
def found() -> Curves:
    """Two rates, three seeds: without, rate 1 is the better; with, rate 3 is the sooner."""
    low, high = curve(0.1, 0.2, 0.3, 0.6), curve(0.1, 0.3, 0.6, 0.8)
    with_low, with_high = curve(0.3, 0.8, 0.8, 0.8), curve(0.8, 0.8, 0.8, 0.85)
    return Curves(
        Net(3, "sigmoid"),
        (1.0, 3.0),
        {
            "none": {1.0: [high] * 3, 3.0: [low, low, curve(0.9, 0.9, 0.9, 0.9)]},
            "batch": {1.0: [with_low] * 3, 3.0: [with_high, with_high, with_low]},
        },
    )


def test_both_protocols(found: Curves) -> None:
    assert found.best_rate() == 1.0
    assert found.matched(1.0) == [Fewer(4.0, "")] * 3
    assert found.own_best() == (1.0, 3.0, [Fewer(8.0, ""), Fewer(8.0, ""), Fewer(4.0, "")])
    assert found.soonest("none", 0.6) == 40
    assert found.soonest("batch", 0.8) == 10
    assert found.soonest("none", 0.95) == math.inf
    assert found.best_final("none") == [0.8, 0.8, 0.8]
    assert found.best_final("batch") == [0.85, 0.85, 0.8]


def test_a_short_run_that_never_gets_there_is_not_the_soonest() -> None:
    """It has a large bound: 40 steps over its 10."""
    slow = [curve(0.1, 0.3, 0.6, 0.8)]
    there, short, better = (
        [curve(0.1, 0.8, 0.8, 0.8)],
        [Curve([10], [0.2], 0.2)],
        [Curve([10, 20], [0.2, 0.7], 0.7)],
    )
    assert ratio_number("r", ratios(slow, short)).text() == "≤ 8 ×"
    assert sorted([there, short, better], key=partial(soonness, slow)) == [short, better, there]


def test_the_median_carries_its_own_bound() -> None:
    found = [Fewer(9.0, "≥"), Fewer(2.0, ""), Fewer(4.0, "≤")]
    # What never got there is the least of the three: its bound says how short its run was.
    assert str(ratio_number("r", found)) == "r: 2 × (2 … 9)"
    assert ratio_number("r", [*found[1:], Fewer(8.0, "≤")]).text() == "≤ 8 ×"
    assert ratio_number("r", [*found[:2], Fewer(10.0, "")]).text() == "≥ 9 ×"


def test_a_net_is_the_same_with_and_without_norm() -> None:
    for net in (Net(2, "sigmoid", sigma=0.01), Net(2, "relu", scale=3.0)):
        plain, steady = (net.build(64, 10, norm, 5) for norm in ("none", "batch"))
        for name, value in plain.named_parameters():
            assert torch.equal(value, dict(steady.named_parameters())[name])
    small = Net(2, "sigmoid", sigma=0.01)
    weights = small.build(784, 10, "none", 0).layers[0].linear.weight.detach()
    assert float(weights.std()) == pytest.approx(0.01, rel=0.02)  # of 78,400 draws
    assert small.title() == "2 × 100 sigmoid, σ = 0.01"
    assert Net(2, "relu").title() == "2 × 100 ReLU, Glorot"


def test_what_a_net_is_called_tells_all_that_it_is() -> None:
    nets = [Net(3, "relu"), Net(3, "relu", scale=4), Net(3, "relu", sigma=0.01), Net(3, "tanh")]
    assert len({net.title() for net in nets}) == len(nets)
    assert nets[1].title() == "3 × 100 ReLU, Glorot × 4"


def test_a_network_that_has_diverged_keeps_the_statistics_it_has() -> None:
    digits = load("digits")
    net = Net(2, "relu").build(64, 10, "batch", 0)
    with torch.no_grad():
        net.get_parameter("layers.0.linear.weight").fill_(math.nan)
    population_statistics(net, digits.train_x, seed=0, batch_size=60)
    assert bool((net.get_buffer("layers.0.norm.running_var") == 1).all())
