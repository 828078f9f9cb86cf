"""Inception's first weights: the same for every arm, drawn without touching anybody's state."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.models import Inception
from gammabeta.lab.models.inception import STEMS

SMALL: dict[str, Any] = {"width": 1 / 16, "input_size": 28, "in_channels": 1}


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def spread(weight: Tensor) -> float:
    return float(weight.detach().std())


@pytest.mark.parametrize("stem", STEMS)
def test_both_norms_start_from_the_same_weights(stem: str) -> None:
    arms = [Inception(5, norm=norm, stem=stem, seed=3, **SMALL) for norm in ("batch", "none")]
    pairs = list(zip(*map(convolutions, arms), strict=True))
    # The table has 69; ten modules do two of theirs as one.
    assert len(pairs) == (60 if stem == "separable" else 59)
    assert all(torch.equal(one.weight, other.weight) for one, other in pairs)
    assert torch.equal(arms[0].classifier.weight, arms[1].classifier.weight)
    assert all(one.bias is None for one, _ in pairs)
    # A bias each, but for the depthwise convolution, which another follows at once.
    biases = [other.bias for _, other in pairs][stem == "separable" :]
    assert stem != "separable" or pairs[0][1].bias is None
    assert all(bias is not None and not bool(bias.any()) for bias in biases)


def test_another_seed_gives_other_weights() -> None:
    nets = [Inception(5, seed=seed, **SMALL) for seed in (0, 1)]
    for one, other in zip(*map(convolutions, nets), strict=True):
        assert not bool((one.weight == other.weight).any())


def test_the_global_random_state_is_neither_read_nor_moved() -> None:
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        states.append(Inception(5, **SMALL).state_dict())
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.parametrize("init", ["he", "glorot"])
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_the_scale_of_the_weights(init: str, scale: float) -> None:
    net = Inception(10, width=0.5, in_channels=3, init=init, init_scale=scale)
    conv = net.inception["5a"].three
    fan_in, fan_out = conv.in_channels * 9, conv.out_channels * 9
    variance = 2 / fan_in if init == "he" else 2 / (fan_in + fan_out)
    # 138,240 draws: three standard errors of a standard deviation are 0.6 %.
    assert spread(conv.weight) == pytest.approx(scale * math.sqrt(variance), rel=0.006)
    # Two reductions of 512 maps that are computed as one are drawn as the two they are: 49,152
    # and 40,960 draws: four standard errors are 1.4 %; as one, Glorot's would be 6 % narrower.
    reductions = net.inception["5a"].reduce.conv.weight.split([96, 80])
    for part in reductions:
        variance = 2 / 512 if init == "he" else 2 / (512 + len(part))
        assert spread(part) == pytest.approx(scale * math.sqrt(variance), rel=0.014)
    depthwise = net.stem[0].depthwise  # 1,176 draws: 6 %
    assert spread(depthwise.weight) == pytest.approx(scale / 7, rel=0.06)
    # Not scaled; 5,120 draws: 3 %.
    head = net.classifier
    assert spread(head.weight) == pytest.approx(1 / math.sqrt(head.in_features), rel=0.03)


def test_a_depthwise_convolution_of_one_channel_is_depthwise() -> None:
    net = Inception(10, width=1 / 16, in_channels=1)
    # 392 draws: three standard errors are 11 %; a convolution before a ReLU would have 41 % more.
    assert spread(net.stem[0].depthwise.weight) == pytest.approx(1 / 7, rel=0.11)
