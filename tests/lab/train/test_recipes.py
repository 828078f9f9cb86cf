"""Recipes: the paper's numbers, and each of its changes alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.lab.models import Inception
from gammabeta.lab.models.inception_parts import PerActivationBatchNorm2d
from gammabeta.lab.train.recipe_table import describe
from gammabeta.lab.train.recipes import RECIPES, SWITCHES, Recipe, recipe
from gammabeta.lab.train.vary import MEMBERS, vary

SMALL: dict[str, Any] = {"input_size": 28, "width": 1 / 16, "in_channels": 1}


def test_the_recipes_are_the_papers() -> None:
    found = {name: (r.norm, r.activation, r.lr) for name, r in RECIPES.items()}
    # Figure 3 of the paper.
    assert found == {
        "inception": ("none", "relu", 0.0015),
        "bn-baseline": ("batch", "relu", 0.0015),
        "bn-x5": ("batch", "relu", 0.0075),
        "bn-x30": ("batch", "relu", pytest.approx(0.045)),
        "bn-x5-sigmoid": ("batch", "sigmoid", 0.0075),
    }
    assert all(recipe(name) is RECIPES[name] and r.name == name for name, r in RECIPES.items())
    assert all(r.batch_size == 32 and r.momentum == 0.9 for r in RECIPES.values())
    with pytest.raises(ValueError, match="recipe='bn-x50' is not known; did you mean 'bn-x5'"):
        recipe("bn-x50")


# What each switch decides, without it and with it; section 4.2.1.
DECIDES: dict[str, tuple[str, Any, Any]] = {
    "rate_factor": ("lr", 0.0015, 0.0075),
    "no_dropout": ("dropout", 0.4, 0.0),
    "weaker_l2": ("weight_decay", 2e-4, 4e-5),
    "faster_decay": ("decay_every", 8 * 1_281_167 / 32, 8 * 1_281_167 / 32 / 6),
    "no_local_response_norm": ("local_response_norm", True, False),
    "shuffle_within_shards": ("shuffle_within_shards", False, True),
    "weak_distortions": ("weak_distortions", False, True),
}
DECIDED = [what for what, _, _ in DECIDES.values()]


def settings(of: Recipe) -> dict[str, Any]:
    return {what: getattr(of, what) for what in DECIDED}


def test_there_are_seven_switches() -> None:
    assert list(DECIDES) == list(SWITCHES)
    assert len(SWITCHES) == 7


@pytest.mark.parametrize("switch", DECIDES)
def test_a_switch_decides_one_thing(switch: str) -> None:
    what, off, on = DECIDES[switch]
    base, bold = recipe("bn-baseline"), recipe("bn-x5")
    assert settings(base)[what] == off
    alone = base.with_changes(**{switch: 5.0 if switch == "rate_factor" else True})
    assert settings(alone) == {**settings(base), what: pytest.approx(on)}
    ablated = bold.with_changes(**{switch: 1.0 if switch == "rate_factor" else False})
    assert settings(ablated) == {**settings(bold), what: off}
    assert (alone.name, ablated.name) == ("bn-baseline+", "bn-x5+")


def test_changes_are_checked_and_named() -> None:
    base = recipe("bn-baseline")
    assert base.with_changes(no_dropout=None) == base
    assert base.with_changes(no_dropout=False) == base
    assert base.with_changes(base_lr=0.1).with_changes(momentum=0.5).name == "bn-baseline+"
    assert base.with_changes(base_lr=0.1, name="mine").name == "mine"
    assert Recipe(**dataclasses.asdict(base)) == base  # a checkpoint can hold it
    with pytest.raises(ValueError, match="change='dropout' is not known; did you mean"):
        base.with_changes(dropout=0.5)
    for change, said in (
        ({"norm": "layer"}, "norm='layer' is not known"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"base_lr": math.nan}, "base_lr=nan must be a positive number"),
        ({"base_lr": math.inf}, "base_lr=inf must be a positive number"),
        ({"rate_factor": 0.0}, "rate_factor=0.0 must be a positive number"),
        ({"base_decay_every": -1.0}, "base_decay_every=-1.0 must be a positive number"),
        ({"init_scale": 0.0}, "init_scale=0.0 must be a positive number"),
        ({"momentum": 1.0}, "momentum=1.0 must be at least 0 and below 1"),
        ({"base_weight_decay": -1e-4}, "base_weight_decay=-0.0001 must be at least 0"),
        ({"dropout_fraction": 1.0}, "dropout_fraction=1.0 must be at least 0 and below 1"),
        ({"decay_rate": 0.0}, "decay_rate=0.0 must be above 0 and at most 1"),
        ({"batch_size": 1}, "batch_size=1 must be at least 2"),
        ({"per_activation": 11}, "per_activation=11 must be between 0 and 10"),
        ({"norm": "none", "per_activation": 1}, "per_activation=1 needs norm='batch'"),
        ({"init": "hee"}, "did you mean 'he'"),
    ):
        with pytest.raises(ValueError, match=said):
            base.with_changes(**change)


def test_the_learning_rate_decays_exponentially() -> None:
    base, bold = recipe("bn-baseline"), recipe("bn-x5")
    epochs_8 = round(8 * 1_281_167 / 32)
    assert base.learning_rate(0) == base.lr
    # GoogLeNet's 4 % every 8 epochs; one step more or less is 1e-7.
    assert base.learning_rate(epochs_8) == pytest.approx(0.96 * base.lr, rel=1e-6)
    assert base.learning_rate(10 * epochs_8) == pytest.approx(0.96**10 * base.lr, rel=1e-6)
    # Six times faster: what took the one 6,000 steps takes the other 1,000.
    assert bold.learning_rate(1_000) / bold.lr == pytest.approx(base.learning_rate(6_000) / base.lr)
    # On a short clock the papers' 31.0 M steps are the run's.
    for run in (base, bold):
        short = run.lasting(3_000)
        for share in (0.1, 0.5, 1.0):
            assert short.learning_rate(round(3_000 * share)) == pytest.approx(
                run.learning_rate(round(31_000_000 * share))
            )
        assert short.name == run.name.rstrip("+") + "+"
        back = {"base_decay_every": run.base_decay_every, "name": run.name}
        assert dataclasses.replace(short, **back) == run
    with pytest.raises(ValueError, match="steps=0 must be at least 1"):
        base.lasting(0)
    constant = base.with_changes(decay_rate=1.0)
    assert constant.learning_rate(10**9) == constant.lr


def test_the_model_is_the_recipes() -> None:
    for name, made in RECIPES.items():
        net = made.model(7, seed=3, channels="printed", stem="fine", **SMALL)
        assert isinstance(net, Inception)
        assert net.dropout.p == made.dropout, name
        assert net.stem_kind == "fine"
        assert net.classifier.out_features == 7
        local = [m for m in net.modules() if isinstance(m, nn.LocalResponseNorm)]
        assert bool(local) == made.local_response_norm, name
        norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == (0 if name == "inception" else 33)
        assert all(norm.activation == made.activation for norm in norms)  # type: ignore[attr-defined]
        twin = Inception(7, seed=3, channels="printed", stem="fine", **SMALL)
        assert torch.equal(twin.stem[0].conv.weight, net.stem[0].conv.weight)  # type: ignore[union-attr]
        assert net.state_dict().keys() >= {"inception.5b.project.weight"}
    wide = recipe("bn-x30").with_changes(init_scale=2.0, init="glorot").model(7, **SMALL)
    assert isinstance(wide, Inception)
    other = Inception(7, init="glorot", init_scale=2.0, **SMALL)
    assert torch.equal(wide.stem[0].conv.weight, other.stem[0].conv.weight)  # type: ignore[union-attr]


def test_the_optimizer_is_sgd_and_lets_gamma_beta_and_biases_be() -> None:
    for name in ("inception", "bn-x5"):
        made = recipe(name)
        net = made.model(7, **SMALL)
        optimizer = made.optimizer(net)
        assert isinstance(optimizer, torch.optim.SGD)
        decays = {
            id(parameter): group["weight_decay"]
            for group in optimizer.param_groups
            for parameter in group["params"]
        }
        assert all(group["lr"] == made.lr for group in optimizer.param_groups)
        assert all(group["momentum"] == 0.9 for group in optimizer.param_groups)
        assert not any(group["nesterov"] or group["dampening"] for group in optimizer.param_groups)
        for key, parameter in net.named_parameters():
            weight = parameter.dim() > 1
            assert weight == (key.endswith(".weight") and ".norm" not in key), key
            assert decays.pop(id(parameter)) == (made.weight_decay if weight else 0.0), key
        assert not decays
    frozen = gb.BatchNorm2d(3).requires_grad_(False)
    with pytest.raises(ValueError, match="model=BatchNorm2d has no parameter that requires a"):
        recipe("bn-x5").optimizer(frozen)
    (group,) = recipe("bn-x5").optimizer(gb.BatchNorm2d(3)).param_groups
    assert group["weight_decay"] == 0.0


def test_the_table_shows_what_differs() -> None:
    lines = {
        line[:24].strip(): line[24:].split()
        for line in describe(recipe("inception"), recipe("bn-x5-sigmoid")).splitlines()
    }
    assert lines["setting"] == ["inception", "bn-x5-sigmoid"]
    assert lines["activation"] == ["relu", "sigmoid"]
    assert lines["initial learning rate"] == ["0.0015", "0.0075", "*"]
    assert lines["dropout"] == ["40%", "0%", "*"]
    assert lines["every so many steps"] == ["320,292", "53,382", "*"]
    assert lines["local response norm"] == ["yes", "no", "*"]
    assert lines["distortions of colour"] == ["full", "weak", "*"]


# Members of an ensemble.


def test_members_differ_from_the_recipe_and_from_each_other() -> None:
    base = recipe("bn-x30")
    members = [vary(base, k) for k in range(len(MEMBERS))]
    assert len(MEMBERS) == 11  # 2 × 3 × 2 combinations, without the one that changes nothing
    points = [(m.init_scale, m.dropout, m.per_activation) for m in members]
    assert len(set(points)) == len(points)
    assert {scale for scale, _, _ in points} == {1.0, 1.5}
    assert {dropout for _, dropout, _ in points} == {0.0, 0.05, 0.1}
    assert {modules for _, _, modules in points} == {0, 1}
    first = points[:6]
    for differs in (
        [scale > 1 for scale, _, _ in first],
        [dropout == 0.05 for _, dropout, _ in first],
        [dropout == 0.1 for _, dropout, _ in first],
        [bool(modules) for _, _, modules in first],
    ):
        assert 2 <= sum(differs) <= 4
    kept = ("lr", "weight_decay", "decay_every", "local_response_norm", "norm", "activation")
    for k, member in enumerate(members):
        assert member.name == f"bn-x30/{k}"
        assert [getattr(member, f) for f in kept] == [getattr(base, f) for f in kept]
        assert dataclasses.replace(vary(base, k + 11), name=member.name) == member
        assert vary(base, k) == member


def test_a_member_is_built_as_it_says() -> None:
    member = vary(recipe("bn-x30").with_changes(init_scale=2.0), 5)
    assert (member.init_scale, member.dropout, member.per_activation) == (3.0, 0.1, 1)
    net = member.model(7, **SMALL)
    assert sum(isinstance(m, PerActivationBatchNorm2d) for m in net.modules()) == 3
    plain = recipe("bn-x30").model(7, **SMALL)
    assert isinstance(net, Inception)
    assert isinstance(plain, Inception)
    torch.testing.assert_close(net.stem[0].conv.weight, 3 * plain.stem[0].conv.weight)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="k=-1 must be at least 0"):
        vary(recipe("bn-x30"), -1)
    with pytest.raises(ValueError, match="recipe='inception' is without batch norm"):
        vary(recipe("inception"), 0)
