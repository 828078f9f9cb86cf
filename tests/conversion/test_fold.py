"""Folding: exact for every kind of layer, and refused by name where it would be wrong."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.folding.report import Folding
from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.ops.activations import ACTIVATIONS, module_of

FAMILIES = {
    "nn": "nn.BatchNorm{}d",
    "gb": "gb.BatchNorm{}d",
    "frozen": "gb.FrozenBatchNorm{}d",
    "renorm": "gb.BatchRenorm{}d",
    "ghost": "gb.GhostBatchNorm{}d",
    "sync": "nn.SyncBatchNorm",
}


def make_norm(family: str, channels: int, dims: int, **options: Any) -> Any:
    home, _, name = FAMILIES[family].partition(".")
    if family == "ghost":
        options["virtual_batch_size"] = 2
    cls = getattr({"nn": nn, "gb": gb}[home], name.format(max(dims, 1)))
    return cls(channels, **options)


def trained(model: nn.Module, seed: int = 0) -> Any:
    """The model in evaluation with statistics and weights that are nothing special."""
    draw = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if not isinstance(module, (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm)):
            continue
        if module.running_mean is not None:
            module.running_mean.copy_(torch.randn(module.num_features, generator=draw))
            module.running_var.copy_(torch.rand(module.num_features, generator=draw) + 0.25)
        if module.weight is not None:
            module.weight.data.copy_(torch.randn(module.num_features, generator=draw))
        if module.bias is not None:
            module.bias.data.copy_(torch.randn(module.num_features, generator=draw))
    return model.eval()


def norms_in(model: nn.Module) -> list[str]:
    return [name for name, m in model.named_modules() if "norm" in type(m).__name__.lower()]


def folded(model: nn.Module, x: Any = None, **options: Any) -> tuple[Any, Folding]:
    reports: list[Folding] = []
    return gb.fold(model, x, report=reports.append, **options), reports[0]


def check(model: nn.Module, x: Tensor, left: int = 0) -> Any:
    """Fold, and compare in float64, where only a few roundings of the weights remain."""
    model = model.double()
    x = x.double()
    before = copy.deepcopy(model.state_dict())
    expected = model(x)
    result, report = folded(model)
    assert len(norms_in(result)) == left, report
    assert len(report.left) == left, report
    # Two orders of the same sum of some hundred terms: a few hundred roundings of 1e-16.
    torch.testing.assert_close(result(x), expected, rtol=1e-11, atol=1e-11)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return result


CONVS: dict[str, Callable[[bool], nn.Module]] = {
    "conv1d": lambda bias: nn.Conv1d(4, 6, 3, padding=1, bias=bias),
    "conv2d": lambda bias: nn.Conv2d(4, 6, 3, padding=1, stride=2, bias=bias),
    "conv3d": lambda bias: nn.Conv3d(4, 6, 2, bias=bias),
    "grouped": lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias),
    "depthwise": lambda bias: nn.Conv2d(4, 8, 3, groups=4, padding=1, bias=bias),
    "dilated": lambda bias: nn.Conv2d(4, 6, 3, dilation=2, padding="same", bias=bias),
    "reflect": lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=bias),
    "linear": lambda bias: nn.Linear(4, 6, bias=bias),
    "transposed1d": lambda bias: nn.ConvTranspose1d(4, 6, 3, stride=2, bias=bias),
    "transposed2d": lambda bias: nn.ConvTranspose2d(
        4, 6, 3, stride=2, padding=1, output_padding=1, bias=bias
    ),
    "transposed3d": lambda bias: nn.ConvTranspose3d(4, 6, 2, bias=bias),
    "transposed grouped": lambda bias: nn.ConvTranspose2d(4, 6, 3, groups=2, bias=bias),
    "transposed depthwise": lambda bias: nn.ConvTranspose2d(4, 8, 3, groups=4, bias=bias),
}


def dims_of(layer: Any) -> int:
    return 0 if isinstance(layer, nn.Linear) else len(layer.kernel_size)


def outputs(layer: Any) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", CONVS)
def test_into_the_layer_before(kind: str, family: str, bias: bool) -> None:
    torch.manual_seed(1)
    layer = CONVS[kind](bias)
    dims = dims_of(layer)
    norm = make_norm(family, outputs(layer), dims)
    result = check(trained(nn.Sequential(layer, norm)), torch.randn(3, 4, *[5] * dims))
    assert type(result[1]) is nn.Identity
    assert type(result[0]) is type(layer)
    assert set(result.state_dict()) == {"0.weight", "0.bias"}


AFTER = {
    "conv1d": lambda bias: nn.Conv1d(4, 6, 3, bias=bias),
    "conv2d": lambda bias: nn.Conv2d(4, 6, 3, stride=2, bias=bias),
    "conv3d": lambda bias: nn.Conv3d(4, 6, 2, bias=bias),
    "grouped": lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias),
    "depthwise": lambda bias: nn.Conv2d(4, 8, 3, groups=4, bias=bias),
    "pointwise same": lambda bias: nn.Conv2d(4, 6, 1, padding="same", bias=bias),
    "reflect": lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=bias),
    "circular": lambda bias: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=bias),
    "linear": lambda bias: nn.Linear(4, 6, bias=bias),
    "transposed pointwise": lambda bias: nn.ConvTranspose2d(4, 6, 1, groups=2, bias=bias),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", AFTER)
def test_into_the_layer_after(kind: str, family: str, bias: bool) -> None:
    torch.manual_seed(1)
    layer = AFTER[kind](bias)
    dims = dims_of(layer)
    result = check(
        trained(nn.Sequential(make_norm(family, 4, dims), layer)), torch.randn(3, 4, *[5] * dims)
    )
    assert type(result[0]) is nn.Identity


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Conv2d(4, 6, 3, padding="same", dilation=2),
        nn.ConvTranspose2d(4, 6, 3, stride=2),
    ],
)
def test_into_the_layer_after_only_without_a_shift_where_zeros_are_padded(layer: Any) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4), layer)
    x = torch.randn(2, 4, 6, 6)
    check(trained(model), x, left=1)
    with torch.no_grad():
        model[0].running_mean.zero_()
        model[0].bias.zero_()
    check(model, x)


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"bias": False}])
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_without_all_parameters(family: str, options: dict[str, bool]) -> None:
    if family == "sync" and "bias" in options:
        pytest.skip("SyncBatchNorm has no bias=")
    norm = make_norm(family, 6, 2, **options)
    check(trained(nn.Sequential(nn.Conv2d(4, 6, 3), norm)), torch.randn(2, 4, 5, 5))


@pytest.mark.parametrize(("first", "second"), [*itertools.product(FAMILIES, FAMILIES)])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_into_the_norm_after(first: str, second: str, affine: bool) -> None:
    model = nn.Sequential(make_norm(first, 4, 2), make_norm(second, 4, 2, affine=affine))
    result = check(trained(model), torch.randn(2, 4, 5, 5), left=1)
    assert type(result[0]) is nn.Identity


def test_a_chain_of_norms_goes_into_one_convolution() -> None:
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.BatchNorm2d(4)
    )
    result = check(trained(model), torch.randn(2, 3, 5, 5))
    assert [type(m) for m in result] == [
        nn.Identity,
        nn.Conv2d,
        nn.Identity,
        nn.Dropout,
        nn.Identity,
    ]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_stays(name: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), gb.BatchNorm2d(4, activation=name))
    result = check(trained(model), torch.randn(2, 3, 5, 5))
    assert repr(result[1]) == repr(module_of(name))


class Joins(nn.Module):
    """A norm of channels that two layers give, as mixed convolutions and CSP networks have it."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 1, bias=False), nn.ConvTranspose2d(3, 2, 1)
        self.bn, self.dim = gb.BatchNorm2d(6, activation="relu"), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(torch.cat((self.one(x), self.other(x)), dim=self.dim))


def test_a_norm_of_joined_channels() -> None:
    result = check(trained(Joins()), torch.randn(2, 3, 5, 5))
    assert type(result.bn) is nn.ReLU
    _, report = folded(trained(Joins()))
    assert report.folded[0].into == "one, other"


def test_a_norm_of_channels_that_are_joined_in_another_way() -> None:
    model = trained(Joins(dim=2))
    model.other = nn.ConvTranspose2d(3, 4, 1)
    model.bn = trained(gb.BatchNorm2d(4))
    check(model, torch.randn(2, 3, 5, 5), left=1)
    model = trained(Joins())
    model.one.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="'one': it has hooks"):
        gb.fold(model)
    model = trained(Joins())
    model.other = model.one
    model.bn = trained(gb.BatchNorm2d(8))
    with pytest.warns(UserWarning, match="'one' is called 2 times"):
        gb.fold(model)
