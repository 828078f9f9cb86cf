"""Ghost batch norm: batch norm of each virtual batch, and batch norm itself where there is one."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.layers import (
    GhostBatchNorm1d,
    GhostBatchNorm2d,
    GhostBatchNorm3d,
    NonFiniteBatchError,
    NonFiniteBatchWarning,
)
from gammabeta.ops.reference import other_norms
from gammabeta.ops.reference import torch_norms as reference
from tests.layers.agreement import agree

# Float64 against float64: a few hundred values a sum, some 1e-14 relative to values of order 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}

CASES = [
    (GhostBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (GhostBatchNorm1d, nn.BatchNorm1d, (6, 3, 5)),
    (GhostBatchNorm2d, nn.BatchNorm2d, (6, 3, 4, 5)),
    (GhostBatchNorm3d, nn.BatchNorm3d, (6, 3, 2, 3, 4)),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("cls", "_", "shape"), CASES)
def test_normalizes_each_virtual_batch(cls, _, shape):
    layer = cls(3, virtual_batch_size=2, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    x = normal(*shape) * torch.arange(1, 7).view(-1, *[1] * (len(shape) - 1))  # unlike parts
    expected = other_norms.ghost_batch_norm(x, [2, 2, 2], layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    whole = reference.batch_norm(x, layer.weight, layer.bias)[0]
    assert bool((layer(x) - whole).abs().max() > 0.1)


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
@pytest.mark.parametrize("size", [6, 7, 1000])
def test_one_virtual_batch_is_batch_norm(cls, plain, shape, size):
    layer, norm = cls(3, virtual_batch_size=size), plain(3)
    for seed in range(3):
        x = normal(*shape, seed=seed, dtype=torch.float32)
        agree(layer(x), norm(x))
    agree(layer.state_dict(), norm.state_dict())
    agree(layer.eval()(x), norm.eval()(x))


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_are_those_of_one_virtual_batch_after_the_other(
    cls, plain, shape, momentum
):
    layer = cls(3, momentum=momentum, virtual_batch_size=3)
    norm = plain(3, momentum=momentum)
    for seed in range(2):
        x = normal(*shape, seed=seed, dtype=torch.float32)
        layer(x)
        for part in x.split(3):
            norm(part)
    assert int(layer.num_batches_tracked) == 4
    agree(layer.state_dict(), norm.state_dict())
    x = normal(*shape, seed=9, dtype=torch.float32)
    agree(layer.eval()(x), norm.eval()(x))


def test_instance_norm_is_the_virtual_batch_of_one():
    layer = GhostBatchNorm2d(3, virtual_batch_size=1, dtype=torch.float64)
    x = normal(4, 3, 4, 4) * 5 + 2
    torch.testing.assert_close(layer(x), nn.functional.instance_norm(x), **EXACT)


@pytest.mark.parametrize(
    ("size", "batch", "expected"),
    [
        (32, 33, [17, 16]),
        (32, 64, [32, 32]),
        (32, 65, [22, 22, 21]),
        (4, 9, [3, 3, 3]),
        (2, 5, [3, 2]),  # 2, 2, 1 would leave an example alone
        (2, 3, [3]),
        (3, 7, [3, 2, 2]),
        (1, 3, [1, 1, 1]),
        (8, 1, [1]),
        (8, 0, [0]),
    ],
)
def test_a_batch_that_does_not_divide_is_cut_evenly(size, batch, expected):
    assert GhostBatchNorm1d(1, virtual_batch_size=size).virtual_batches(batch) == expected


@settings(max_examples=200, deadline=None)
@given(size=st.integers(1, 40), batch=st.integers(1, 200))
def test_virtual_batches_cover_the_batch(size, batch):
    sizes = GhostBatchNorm1d(1, virtual_batch_size=size).virtual_batches(batch)
    assert sum(sizes) == batch
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= (3 if size == 2 else size)  # 2 + 1 is joined
    if size > 1 and batch > 1:
        assert min(sizes) > 1


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(2, 9), size=st.integers(2, 5), seed=st.integers(0, 99))
def test_uneven_batches_agree_with_the_formula(batch, size, seed):
    layer = GhostBatchNorm1d(2, virtual_batch_size=size, dtype=torch.float64)
    x = normal(batch, 2, seed=seed)
    sizes = layer.virtual_batches(batch)
    expected = other_norms.ghost_batch_norm(x, sizes, layer.weight, layer.bias)
    # Two values a feature may be 1e-4 apart, and then ε decides: five digits of the difference.
    torch.testing.assert_close(layer(x), expected, rtol=1e-8, atol=1e-8)


def test_gradients():
    layer = GhostBatchNorm1d(2, virtual_batch_size=3, momentum=0.0, dtype=torch.float64)
    x, v = normal(7, 2).requires_grad_(), normal(7, 2, seed=1)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return out * v

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_an_example_is_coupled_with_its_virtual_batch_only():
    layer = GhostBatchNorm1d(2, virtual_batch_size=2)
    x = normal(4, 2, dtype=torch.float32).requires_grad_()
    layer(x)[0].square().sum().backward()
    assert bool((x.grad[:2] != 0).all())
    assert int(x.grad[2:].count_nonzero()) == 0


def test_untracked_statistics_use_virtual_batches_in_evaluation_too():
    layer = GhostBatchNorm1d(2, virtual_batch_size=2, track_running_stats=False)
    x = normal(6, 2, dtype=torch.float32)
    assert torch.equal(layer.eval()(x), layer.train()(x))


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
def test_is_a_batch_norm_and_exchanges_state_dicts(cls, plain, shape):
    layer, norm = cls(3, virtual_batch_size=2), plain(3)
    assert isinstance(layer, plain)
    layer(normal(*shape, dtype=torch.float32))
    norm.load_state_dict(layer.state_dict())
    again = cls(3)
    again.load_state_dict(norm.state_dict())
    assert same(again.state_dict(), layer.state_dict())


def test_pickle_and_deepcopy():
    layer = GhostBatchNorm2d(3, virtual_batch_size=2, activation="gelu")
    x = normal(5, 3, 4, 4, dtype=torch.float32)
    layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin.eval()(x), copy.deepcopy(layer).eval()(x))
        assert torch.equal(twin.train()(x), copy.deepcopy(layer)(x))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs below 4: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)],
)
def test_half_inputs_with_float32_parameters(dtype, tolerance):
    layer = GhostBatchNorm2d(3, virtual_batch_size=2)
    x = (normal(4, 3, 5, 5) * 2 + 1).to(dtype)
    y = layer(x)
    expected = other_norms.ghost_batch_norm(
        x.double(), [2, 2], layer.weight.double(), layer.bias.double()
    )
    assert y.dtype == dtype
    assert bool((expected.abs() < 4).all())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


def test_channels_last_is_kept():
    layer, x = GhostBatchNorm2d(3, virtual_batch_size=2), normal(5, 3, 4, 4, dtype=torch.float32)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, layer(x), rtol=1e-5, atol=1e-5)  # another order of float32 sums


def test_residual_is_cut_alike():
    layer = GhostBatchNorm2d(3, virtual_batch_size=2, activation="relu", dtype=torch.float64)
    x, skip = normal(5, 3, 4, 4), normal(5, 3, 4, 4, seed=1)
    expected = other_norms.ghost_batch_norm(x, [3, 2], layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, residual=skip), torch.relu(expected + skip), **EXACT)
    assert "virtual_batch_size=2" in repr(layer)


def test_empty_batch():
    layer = GhostBatchNorm2d(3, virtual_batch_size=2)
    before = layer.running_mean.clone()
    assert layer(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)
    assert torch.equal(layer.running_mean, before)


@pytest.mark.parametrize(
    ("size", "x", "residual", "match"),
    [
        (1, torch.ones(4, 3), None, "virtual_batch_size=1 leaves one value"),
        (2, torch.ones(4, 2), None, "num_features=3"),
        (2, torch.ones(4, 3, 2, 2), None, "2D or 3D"),
        (2, torch.ones(4, 3), torch.ones(3, 3), "residual has shape"),
    ],
)
def test_state_is_untouched_when_forward_raises(size, x, residual, match):
    layer = GhostBatchNorm1d(3, virtual_batch_size=size)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=match):
        layer(x, residual)
    assert same(snapshot(layer), before)


def test_a_batch_of_one_raises_as_batch_norm_does():
    with pytest.raises(ValueError, match="more than 1 value"):
        GhostBatchNorm1d(3)(torch.ones(1, 3))


@pytest.mark.parametrize("size", [0, -3, 2.5])
def test_bad_arguments(size):
    with pytest.raises(ValueError, match=f"virtual_batch_size={size}.*give 1 or more"):
        GhostBatchNorm2d(3, virtual_batch_size=size)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = GhostBatchNorm2d(3, virtual_batch_size=1, device="meta").train(training)
    y = layer(torch.empty(2, 3, 4, 4, device="meta"))
    assert (y.shape, y.device.type) == ((2, 3, 4, 4), "meta")


def test_state_is_untouched_when_the_second_virtual_batch_raises():
    layer = GhostBatchNorm1d(3, virtual_batch_size=2, on_nonfinite="raise")
    before = snapshot(layer)
    x = normal(4, 3, dtype=torch.float32)
    x[3, 0] = float("nan")
    with pytest.raises(NonFiniteBatchError):
        layer(x)
    assert same(snapshot(layer), before)


def test_only_the_virtual_batch_that_is_not_finite_is_kept_out():
    layer, twin = (GhostBatchNorm1d(3, virtual_batch_size=2) for _ in range(2))
    x = normal(4, 3, dtype=torch.float32)
    twin(x[:2])
    x[3, 0] = float("nan")
    with pytest.warns(NonFiniteBatchWarning):
        layer(x)
    assert same(snapshot(layer), snapshot(twin))
    assert layer.refused_batches == 1
