"""The stack: the same weights for every arm, drawn without touching anybody's random state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.lab.models import Stack
from gammabeta.lab.models.stack import ACTIVATIONS, NORMS

TYPES = {
    "none": nn.Identity,
    "batch": gb.BatchNorm1d,
    "layer": gb.LayerNorm,
    "group": gb.GroupNorm,
    "rms": gb.RMSNorm,
}


def linears(stack: Stack) -> list[nn.Linear]:
    return [m for m in stack.modules() if isinstance(m, nn.Linear)]


def test_the_names_here_are_all() -> None:
    assert tuple(TYPES) == NORMS
    assert tuple(ACTIVATIONS) == ("sigmoid", "tanh", "relu", "gelu")


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_all_arms_start_from_the_same_weights(seed: int, activation: str) -> None:
    make = {"depth": 3, "width": 16, "seed": seed, "init_scale": 2.0}
    arms = [Stack(8, 4, norm=norm, activation=activation, **make) for norm in NORMS]  # type: ignore[arg-type]
    first = linears(arms[0])
    assert len(first) == 4
    for arm in arms[1:]:
        for one, other in zip(first, linears(arm), strict=True):
            assert torch.equal(one.weight, other.weight)
            assert torch.equal(one.bias, other.bias)


def test_another_seed_gives_other_weights() -> None:
    for one, other in zip(linears(Stack(8, 4)), linears(Stack(8, 4, seed=1)), strict=True):
        assert not bool((one.weight == other.weight).any())


@pytest.mark.parametrize("norm", NORMS)
def test_the_global_random_state_is_neither_read_nor_moved(norm: str) -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(Stack(8, 4, width=16, norm=norm).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_scale_of_the_weights() -> None:
    for scale in (1.0, 10.0):
        *layers, classifier = linears(Stack(400, 10, depth=2, width=300, init_scale=scale))
        for layer in layers:
            # Glorot: √(2/(fan_in + fan_out)). The std of 90,000 draws is good to 3 σ = 0.7 %.
            glorot = math.sqrt(2 / (layer.in_features + layer.out_features))
            assert float(layer.weight.detach().std()) == pytest.approx(scale * glorot, rel=0.01)
            assert float(layer.weight.detach().mean()) == pytest.approx(
                0, abs=0.02 * scale * glorot
            )
        glorot = math.sqrt(2 / 310)  # the classifier is not scaled; 3,000 draws: 3 σ = 4 %
        assert float(classifier.weight.detach().std()) == pytest.approx(glorot, rel=0.04)
        assert all(not bool(layer.bias.any()) for layer in (*layers, classifier))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_forward_is_its_formula(norm: str, activation: str) -> None:
    stack = Stack(8, 4, depth=3, width=16, norm=norm, activation=activation)
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    u = x
    assert len(stack.layers) == 3
    for layer in stack.layers:
        assert type(layer.norm) is TYPES[norm]
        assert type(layer.activation) is ACTIVATIONS[activation]
        u = layer.activation(layer.norm(u @ layer.linear.weight.T + layer.linear.bias))
    expected = u @ stack.classifier.weight.T + stack.classifier.bias
    torch.testing.assert_close(stack(x), expected, rtol=1e-5, atol=1e-5)  # float32, four products
    assert torch.equal(stack(x.reshape(5, 2, 2, 2)), stack(x))


def test_options_reach_the_norms() -> None:
    (layer,) = Stack(8, 4, depth=1, norm="batch", momentum=0.25).layers
    assert layer.norm.momentum == 0.25
    (layer,) = Stack(8, 4, depth=1, width=12, norm="group", groups=4).layers
    assert (layer.norm.num_groups, layer.norm.num_channels) == (4, 12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 0}, "depth=0 must be at least 1"),
        ({"width": -3}, "width=-3 must be at least 1"),
        ({"inputs": 0}, "inputs=0 must be at least 1"),
        ({"classes": 0}, "classes=0 must be at least 1"),
        ({"init_scale": 0.0}, "init_scale=0.0 must be a positive number"),
        ({"init_scale": -1.0}, "init_scale=-1.0 must be a positive number"),
        ({"init_scale": math.nan}, "init_scale=nan must be a positive number"),
        ({"init_scale": math.inf}, "init_scale=inf must be a positive number"),
        (
            {"activation": "thanh"},
            "activation='thanh' is not known; did you mean 'tanh'? "
            "Choices: sigmoid, tanh, relu, gelu",
        ),
        (
            {"norm": "bach"},
            "norm='bach' is not known; did you mean 'batch'? "
            "Choices: none, batch, layer, group, rms",
        ),
        ({"norm": "group", "width": 20}, "width=20 must be a multiple of groups=8 (norm='group')"),
        ({"norm": "group", "groups": 0}, "groups=0 must be at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is not known") as caught:
        Stack(**{"inputs": 8, "classes": 4, **arguments})
    assert str(caught.value) == said
