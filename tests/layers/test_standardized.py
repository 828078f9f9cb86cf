"""x̂: over the axes each layer uses, against float64 formulas written out here."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.layers.standardized import standardized
from gammabeta.layers.traits import NORMS


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3 + 2 * torch.randn(shape, generator=generator)).to(dtype)


def centred(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    x = x.double()
    mean = x.mean(tuple(dims), keepdim=True)
    var = (x - mean).square().mean(tuple(dims), keepdim=True)
    return (x - mean) / (var + eps).sqrt()


def of_unit_rms(x: Tensor, dims: Sequence[int], eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(tuple(dims), keepdim=True) + eps).sqrt()


def grouped(x: Tensor, groups: int, eps: float) -> Tensor:
    return centred(x.reshape(x.shape[0], groups, -1), (2,), eps).reshape(x.shape)


TRAINED = {
    "BatchNorm1d": (nn.BatchNorm1d(5), (7, 5), lambda x: centred(x, (0,), 1e-5)),
    "BatchNorm1d length": (nn.BatchNorm1d(5), (7, 5, 3), lambda x: centred(x, (0, 2), 1e-5)),
    "BatchNorm2d": (nn.BatchNorm2d(5), (4, 5, 3, 2), lambda x: centred(x, (0, 2, 3), 1e-5)),
    "BatchNorm3d": (
        nn.BatchNorm3d(5, eps=0.1),
        (2, 5, 3, 2, 2),
        lambda x: centred(x, (0, 2, 3, 4), 0.1),
    ),
    "untracked": (
        nn.BatchNorm1d(5, track_running_stats=False).eval(),
        (7, 5),
        lambda x: centred(x, (0,), 1e-5),
    ),
    "ours": (
        gb.BatchNorm2d(5, activation="relu"),
        (4, 5, 3, 2),
        lambda x: centred(x, (0, 2, 3), 1e-5),
    ),
    "InstanceNorm1d": (nn.InstanceNorm1d(5), (4, 5, 6), lambda x: centred(x, (2,), 1e-5)),
    "InstanceNorm2d": (nn.InstanceNorm2d(5), (4, 5, 3, 6), lambda x: centred(x, (2, 3), 1e-5)),
    "InstanceNorm1d no batch": (nn.InstanceNorm1d(5), (5, 6), lambda x: centred(x, (1,), 1e-5)),
    "InstanceNorm2d no batch": (
        nn.InstanceNorm2d(5),
        (5, 3, 6),
        lambda x: centred(x, (1, 2), 1e-5),
    ),
    "LayerNorm": (nn.LayerNorm(6), (4, 3, 6), lambda x: centred(x, (2,), 1e-5)),
    "LayerNorm 2 dims": (nn.LayerNorm((3, 6)), (4, 3, 6), lambda x: centred(x, (1, 2), 1e-5)),
    "GroupNorm": (nn.GroupNorm(3, 6, eps=0.1), (4, 6, 5), lambda x: grouped(x, 3, 0.1)),
    "RMSNorm": (
        nn.RMSNorm(6),
        (4, 3, 6),
        lambda x: of_unit_rms(x, (2,), torch.finfo(torch.float32).eps),
    ),
    "RMSNorm eps": (nn.RMSNorm(6, eps=0.1), (4, 3, 6), lambda x: of_unit_rms(x, (2,), 0.1)),
}


@pytest.mark.parametrize(("norm", "shape", "formula"), TRAINED.values(), ids=TRAINED.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_x_hat(
    norm: nn.Module, shape: tuple[int, ...], formula: object, dtype: torch.dtype
) -> None:
    norm = copy.deepcopy(norm)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.fill_(7.0)  # x̂ comes before γ and β
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    x = drawn(*shape, dtype=dtype)
    x_hat = standardized(norm, x)
    assert x_hat.dtype == torch.float32
    # A bfloat16 input is exact in float32, so both dtypes have float32's error: |x̂| <= 5, x/σ <= 6.
    torch.testing.assert_close(x_hat.double(), formula(x), rtol=2e-6, atol=5e-6)  # type: ignore[operator]
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (nn.BatchNorm1d, (7, 5)),
        (nn.BatchNorm2d, (4, 5, 3, 2)),
        (lambda c: nn.InstanceNorm1d(c, track_running_stats=True), (4, 5, 6)),
        (lambda c: nn.InstanceNorm1d(c, track_running_stats=True), (5, 6)),
    ],
    ids=["batch1d", "batch2d", "instance", "instance no batch"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_evaluation_uses_the_running_statistics(
    make: object, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    norm = make(5).eval()  # type: ignore[operator]
    mean, var = torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([1.0, 4, 9, 16, 0.25])
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var)
    norm.to(dtype)  # a frozen layer of a bfloat16 model keeps its statistics in bfloat16
    x = drawn(*shape, dtype=dtype)
    channels = (1, 5, *(1,) * (x.dim() - 2)) if x.dim() != 2 or shape[0] == 7 else (5, 1)
    expected = (x.double() - mean.double().reshape(channels)) / (
        var.double().reshape(channels) + norm.eps
    ).sqrt()
    torch.testing.assert_close(standardized(norm, x).double(), expected, rtol=2e-6, atol=1e-5)


def test_double_stays_double() -> None:
    norm = nn.BatchNorm1d(5).double()
    assert standardized(norm, drawn(7, 5).double()).dtype == torch.float64


@pytest.mark.parametrize("norm", [nn.Linear(2, 2), nn.LocalResponseNorm(2)])
def test_a_layer_whose_x_hat_is_not_known(norm: nn.Module) -> None:
    assert not isinstance(norm, NORMS)
    with pytest.raises(TypeError, match=f"norm is a {type(norm).__name__}; give one of torch's"):
        standardized(norm, torch.zeros(2, 2))
