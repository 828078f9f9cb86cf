"""Inception: its parameters counted, its structure beside a port that somebody else wrote."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import gammabeta as gb
from gammabeta.lab.models import Inception
from gammabeta.lab.models.inception_parts import ConvNorm, InceptionModule, PerActivationBatchNorm2d

SMALL: dict[str, Any] = {"width": 1 / 16, "input_size": 28, "in_channels": 1}


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 11_278_528),
        ({"stem": "plain"}, 11_285_224),
        # Each of 10,016 maps has a bias in place of γ and β.
        ({"stem": "plain", "norm": "none"}, 11_285_224 - 10_016),
        ({"norm": "none"}, 11_278_528 - 10_016),
    ],
    ids=str,
)
def test_parameters_are_those_of_the_table(arguments: dict[str, Any], parameters: int) -> None:
    assert count(Inception(**arguments)) == parameters


def port(channels: str) -> nn.Module:
    """pytorchcv's BN-Inception, its borders as ours: 56² of 112² may be had in two ways."""
    from pytorchcv.models import bninception as module

    if channels == "written":
        other = module.bninception(bias=False)
    else:
        other = module.BNInception(
            channels=[[256, 320], [576, 576, 576, 576, 576], [1024, 1024, 1024]],
            init_block_channels_list=[64, 192],
            mid1_channels_list=[
                [[64, 64], [64, 64]],
                [[128, 64], [64, 96], [96, 96], [128, 128], [128, 160]],
                [[128, 192], [192, 160], [192, 192]],
            ],
            mid2_channels_list=[
                [[64, 64, 96, 32], [64, 96, 96, 64]],
                [
                    *([0, 160, 96, 0], [224, 96, 128, 128], [192, 128, 128, 128]),
                    *([160, 160, 160, 96], [96, 192, 192, 96]),
                ],
                [[0, 192, 256, 0], [352, 320, 224, 128], [352, 320, 224, 128]],
            ],
            bias=False,
        )
    for part in other.modules():
        if isinstance(part, nn.AvgPool2d) and part.kernel_size == 3:
            part.count_include_pad = False
        if isinstance(part, nn.MaxPool2d):
            part.padding, part.ceil_mode = 1, False
    assert isinstance(other, nn.Module)
    return other


@dataclass
class Layer:
    """A convolution of the table: views of its weight and of what follows it."""

    weight: Tensor
    after: dict[str, Tensor]


def layers(net: Inception) -> list[Layer]:
    """Its convolutions in the table's order, those that are computed as one taken apart."""
    found = []
    for part in net.stem:
        if isinstance(part, ConvNorm):
            found.append(Layer(part.conv.weight, after(part.norm) or after(part.conv)))
    for module in net.inception.values():
        assert isinstance(module, InceptionModule)
        last = module.double_second
        convs = [module.one, module.three, last, module.project]
        outer = [conv for conv in convs if conv is not None]
        sizes = [conv.out_channels for conv in outer]
        ends = split(after(module.norm), sizes) or [after(conv) for conv in outer]
        by_conv = dict(zip(outer, ends, strict=True))
        reduced = after(module.reduce.norm) or after(module.reduce.conv)
        three, double = split(reduced, module.reduced)
        order = [] if module.one is None else [by_conv[module.one]]
        order += [three, by_conv[module.three], double]
        first = module.double_first
        order += [after(first.norm) or after(first.conv), by_conv[last]]
        order += [] if module.project is None else [by_conv[module.project]]
        found += [Layer(w, a) for w, a in zip(module.weights(), order, strict=True)]
    return found


def after(module: nn.Module) -> dict[str, Tensor]:
    """What a norm has, or a convolution's bias."""
    named = module.state_dict(keep_vars=True)
    kept = ("bias",) if isinstance(module, nn.Conv2d) else tuple(named)
    return {name: named[name] for name in kept if name in named and named[name].dim() == 1}


def split(named: dict[str, Tensor], sizes: list[int]) -> list[dict[str, Tensor]]:
    parts = {name: tensor.split(sizes) for name, tensor in named.items()}
    return [dict(zip(parts, each, strict=True)) for each in zip(*parts.values(), strict=True)]


@pytest.mark.parametrize("channels", ["written", "printed"])
def test_it_computes_what_another_port_computes(channels: str) -> None:
    ours, theirs = Inception(stem="plain", channels=channels), port(channels)
    # Its stem's 1×1 and 3×3 have biases whatever is asked.
    for part in convolutions(theirs):
        part.bias = None
    assert count(ours) == count(theirs)
    with torch.no_grad():
        norms = [part for part in theirs.modules() if isinstance(part, nn.BatchNorm2d)]
        pairs = zip(layers(ours), convolutions(theirs), norms, strict=True)
        for number, (layer, conv, norm) in enumerate(pairs):
            # Let none be another's, whatever their sizes.
            layer.after["weight"].copy_(1 + 0.3 * random(norm.num_features, seed=number))
            layer.after["bias"].copy_(0.3 * random(norm.num_features, seed=1000 + number))
            conv.weight.copy_(layer.weight)
            norm.load_state_dict(layer.after, strict=False)
        (head,) = [part for part in theirs.modules() if isinstance(part, nn.Linear)]
        head.load_state_dict(ours.classifier.state_dict())
        x = random(2, 3, 224, 224)
        # With the mini-batch's statistics the signal keeps its size through all 69 layers.
        expected = theirs.train()(x)
        found = ours.train()(x)
    # Float32, 69 layers, and sums in other orders: relative to the scores' size.
    assert float((found - expected).abs().max()) < 1e-3 * float(expected.std())
    # The statistics that evaluation uses moved alike, each channel's where its weight is.
    for layer, norm in zip(layers(ours), norms, strict=True):
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(layer.after[name], getattr(norm, name), rtol=1e-3, atol=1e-3)


def test_printed_channels_are_those_printed() -> None:
    for channels, expected in (
        ("written", [256, 320, 576, 576, 576, 608, 608, 1056, 1024, 1024]),
        ("printed", [256, 320, 576, 576, 576, 576, 576, 1024, 1024, 1024]),
    ):
        net = Inception(input_size=32, stem="plain", channels=channels)
        found: list[int] = []
        for module in net.inception.values():
            module.register_forward_hook(lambda m, i, out, found=found: found.append(out.shape[1]))
        net(torch.zeros(2, 3, 32, 32))
        assert found == expected


@pytest.mark.parametrize(
    ("size", "stem", "kind", "maps"),
    [
        (224, None, "separable", (28, 14, 7)),
        (224, "plain", "plain", (28, 14, 7)),
        (96, None, "separable", (12, 6, 3)),
        (32, None, "small", (16, 8, 4)),
        (28, None, "small", (14, 7, 4)),
        (28, "fine", "fine", (28, 14, 7)),
        (32, "plain", "plain", (4, 2, 1)),
        (8, None, "fine", (8, 4, 2)),
    ],
)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_maps_have_the_sizes_it_says(
    size: int, stem: str | None, kind: str, maps: tuple[int, ...], norm: str
) -> None:
    net = Inception(7, norm=norm, width=1 / 16, input_size=size, stem=stem, in_channels=2)
    assert (net.stem_kind, net.map_sizes) == (kind, maps)
    found: dict[str, tuple[int, ...]] = {}
    for name, module in [("stem", net.stem), *net.inception.items()]:
        module.register_forward_hook(
            lambda m, i, out, name=name: found.update({name: tuple(out.shape[2:])})
        )
    assert net(random(2, 2, size, size)).shape == (2, 7)
    sizes = dict.fromkeys(("stem", "3a", "3b"), maps[0])
    sizes |= dict.fromkeys(("3c", "4a", "4b", "4c", "4d"), maps[1])
    sizes |= dict.fromkeys(("4e", "5a", "5b"), maps[2])
    assert found == {name: (side, side) for name, side in sizes.items()}


# What it computes.


@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_the_baseline_is_batch_norm_that_does_nothing(activation: str) -> None:
    steady = Inception(5, norm="batch", activation=activation, **SMALL).eval()
    plain = Inception(5, norm="none", activation=activation, **SMALL)
    with torch.no_grad():
        for number, (one, other) in enumerate(zip(layers(steady), layers(plain), strict=True)):
            assert other.after.keys() == {"bias"}
            one.after["weight"].fill_(math.sqrt(1 + 1e-5))  # what ε takes
            for layer in (one, other):
                layer.after["bias"].copy_(0.1 * random(len(layer.weight), seed=number))
        x = random(4, 1, 28, 28)
        # Float32 through 69 layers.
        torch.testing.assert_close(steady(x), plain(x), rtol=1e-4, atol=1e-4)


def test_dropout_is_before_the_classifier_and_in_training_only() -> None:
    net = Inception(5, dropout=0.4, norm="none", **SMALL)
    seen: list[Tensor] = []
    net.classifier.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    x = random(64, 1, 28, 28)
    torch.manual_seed(0)
    net(x)
    net.eval()(x)
    dropped = (seen[0] == 0) & (seen[1] != 0)
    # 4,096 draws or so: 0.4 ± 0.023 at three standard errors.
    alive = seen[1] != 0
    assert float(dropped.sum() / alive.sum()) == pytest.approx(0.4, abs=0.03)
    torch.testing.assert_close(seen[0][~dropped], seen[1][~dropped] / 0.6)


def test_local_response_normalization_is_after_the_first_pooling_and_before_the_second() -> None:
    net = Inception(5, local_response_norm=True, width=1 / 16, input_size=64)
    kinds = [type(module).__name__ for module in net.stem]
    assert kinds == [
        *("ConvNorm", "MaxPool2d", "LocalResponseNorm"),
        *("ConvNorm", "ConvNorm", "LocalResponseNorm", "MaxPool2d"),
    ]
    small = Inception(5, local_response_norm=True, **SMALL)
    assert sum(isinstance(module, nn.LocalResponseNorm) for module in small.modules()) == 2
    assert not any(isinstance(m, nn.LocalResponseNorm) for m in Inception(5, **SMALL).modules())


def test_per_activation_norm_in_the_last_module() -> None:
    net = Inception(5, per_activation=1, **SMALL)
    kinds = {
        name: {
            type(part.norm)
            for part in module.modules()
            if isinstance(part, (ConvNorm, InceptionModule))
        }
        for name, module in net.inception.items()
    }
    last = kinds.pop("5b")
    assert last == {PerActivationBatchNorm2d}
    assert all(kind == {gb.BatchNorm2d} for kind in kinds.values())
    twin = Inception(5, **SMALL)
    for one, other in zip(convolutions(net), convolutions(twin), strict=True):
        assert torch.equal(one.weight, other.weight)
    assert net(random(3, 1, 28, 28)).shape == (3, 5)
    with pytest.raises(ValueError, match="needs maps of the size"):
        net(random(3, 1, 32 * 4, 32 * 4))
    x = random(6, 2, 3, 3)
    layer = PerActivationBatchNorm2d((2, 3, 3), activation="relu")
    # Each activation by its own mean and biased variance over the batch, ε = 1e-5.
    mean, var = x.mean(0), x.var(0, correction=0)
    expected = ((x - mean) / (var + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient() -> None:
    for net in (
        Inception(5, per_activation=2, **SMALL),
        Inception(5, norm="none", dropout=0.4, local_response_norm=True, **SMALL),
    ):
        nn.functional.cross_entropy(net(random(4, 1, 28, 28)), torch.arange(4)).backward()
        for name, parameter in net.named_parameters():
            assert parameter.grad is not None, name
            assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_it_is_traced_copied_and_reverted(norm: str) -> None:
    net = Inception(5, norm=norm, local_response_norm=True, **SMALL).eval()
    x = random(2, 1, 28, 28)
    expected = net(x)
    assert torch.equal(fx.symbolic_trace(net)(x), expected)
    torchs = gb.revert(copy.deepcopy(net), fused="split")
    assert not any(type(m) is gb.BatchNorm2d for m in torchs.modules())
    torch.testing.assert_close(torchs(x), expected, rtol=1e-4, atol=1e-5)  # 69 layers in float32
    again = Inception(5, norm=norm, local_response_norm=True, seed=9, **SMALL).eval()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), expected)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"norm": "bach"}, "norm='bach' is not known; did you mean 'batch'? Choices: batch, none"),
        (
            {"stem": "smal"},
            "stem='smal' is not known; did you mean 'small'? "
            "Choices: separable, plain, small, fine",
        ),
        (
            {"channels": "print"},
            "channels='print' is not known; did you mean 'printed'? Choices: written, printed",
        ),
        ({"init": "hi"}, "init='hi' is not known; did you mean 'he'? Choices: he, glorot"),
        ({"classes": 0}, "classes=0 must be between 1 and 1000000"),
        ({"input_size": 3}, "input_size=3 must be between 4 and 1024"),
        ({"in_channels": 0}, "in_channels=0 must be between 1 and 4096"),
        ({"per_activation": 11}, "per_activation=11 must be between 0 and 10"),
        ({"width": 0.0}, "width=0.0 must be a positive number, at most 8"),
        ({"width": math.nan}, "width=nan must be a positive number, at most 8"),
        ({"init_scale": -1.0}, "init_scale=-1.0 must be a positive number, at most 1000"),
        ({"dropout": 1.0}, "dropout=1.0 must be at least 0 and below 1"),
        (
            {"per_activation": 1, "norm": "none"},
            "per_activation=1 needs norm='batch', not 'none'",
        ),
    ],
    ids=str,
)
def test_bad_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=r"must be|is not known|needs") as caught:
        Inception(**arguments)
    assert str(caught.value) == said
    with pytest.raises(ValueError, match="did you mean 'sigmoid'"):
        Inception(activation="sigmod")
