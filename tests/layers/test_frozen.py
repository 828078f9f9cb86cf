"""Frozen batch norm: batch norm's evaluation to the bit, whatever is done to the model."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

import gammabeta as gb
from gammabeta.layers import FrozenBatchNorm1d, FrozenBatchNorm2d, FrozenBatchNorm3d
from gammabeta.ops.reference import torch_norms as reference
from tests.layers.agreement import agree

# Float64 against float64, elementwise: a few units in the last place of values of order 10.
EXACT = {"rtol": 1e-14, "atol": 1e-14}

CASES = [
    (FrozenBatchNorm1d, nn.BatchNorm1d, (6, 3)),
    (FrozenBatchNorm1d, nn.BatchNorm1d, (4, 3, 5)),
    (FrozenBatchNorm2d, nn.BatchNorm2d, (3, 3, 4, 5)),
    (FrozenBatchNorm3d, nn.BatchNorm3d, (2, 3, 2, 3, 4)),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def trained(plain: type[_BatchNorm], shape: tuple[int, ...], **arguments: object) -> _BatchNorm:
    """A batch norm with parameters and statistics of its own."""
    norm = plain(3, **arguments)
    for parameter in norm.parameters():
        with torch.no_grad():
            parameter.copy_(normal(3, seed=4))
    for seed in range(3):
        norm(normal(*shape, seed=seed).to(norm.running_mean.dtype) * 2 + 1)
    return norm


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"bias": False}, {"eps": 0.1}])
def test_equals_batch_norm_in_evaluation(cls, plain, shape, arguments):
    norm = trained(plain, shape, **arguments)
    frozen = cls.from_batch_norm(norm)
    x = normal(*shape, seed=8)
    assert frozen.training
    agree(frozen(x), norm.eval()(x))
    agree(frozen.eval()(x), norm(x))


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
def test_agrees_with_the_formula(cls, plain, shape):
    frozen = cls.from_batch_norm(trained(plain, shape, dtype=torch.float64))
    x = normal(*shape, seed=8, dtype=torch.float64)
    expected = reference.batch_norm_inference(
        x, frozen.running_mean, frozen.running_var, frozen.weight, frozen.bias, frozen.eps
    )
    torch.testing.assert_close(frozen(x), expected, **EXACT)


def test_nothing_done_to_the_model_moves_it():
    frozen = FrozenBatchNorm2d.from_batch_norm(trained(nn.BatchNorm2d, (4, 3, 5, 5)))
    model = nn.Sequential(nn.Conv2d(3, 3, 3), frozen, nn.ReLU(), nn.Conv2d(3, 1, 1))
    before, convolution = snapshot(frozen), model[0].weight.detach().clone()
    model.train()
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    for seed in range(3):
        optimizer.zero_grad()
        model(normal(2, 3, 8, 8, seed=seed)).square().mean().backward()
        optimizer.step()
    model.eval()
    model.train()
    torch.optim.swa_utils.update_bn([normal(2, 3, 8, 8)], model)
    assert same(snapshot(frozen), before)
    assert not torch.equal(model[0].weight, convolution)  # what is trained was trained
    assert list(frozen.parameters()) == []


def test_is_no_batch_norm_so_that_nothing_brings_it_back_to_life():
    frozen = FrozenBatchNorm2d(3)
    assert not isinstance(frozen, _BatchNorm)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(frozen, nn.BatchNorm2d(3)))
    assert model[0] is frozen
    assert isinstance(model[1], nn.SyncBatchNorm)


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
@pytest.mark.parametrize("arguments", [{}, {"affine": False}, {"bias": False}])
def test_exchanges_state_dicts_with_batch_norm(cls, plain, shape, arguments):
    norm = trained(plain, shape, **arguments)
    frozen = cls(3, **arguments)
    frozen.load_state_dict(norm.state_dict())
    assert same(snapshot(frozen), snapshot(norm))
    again = plain(3, **arguments)
    again.load_state_dict(frozen.state_dict())
    assert same(snapshot(again), snapshot(norm))


def test_loads_a_state_dict_without_a_count():
    norm = trained(nn.BatchNorm2d, (4, 3, 5, 5))
    state = snapshot(nn.Sequential(norm))
    del state["0.num_batches_tracked"]
    keys = list(state)
    model = nn.Sequential(FrozenBatchNorm2d(3))
    model.load_state_dict(state)
    assert torch.equal(model[0].running_var, norm.running_var)
    assert list(state) == keys
    del state["0.running_var"]
    with pytest.raises(RuntimeError, match="running_var"):
        model.load_state_dict(state)


def test_copies_are_of_their_own():
    norm = trained(nn.BatchNorm2d, (4, 3, 5, 5))
    frozen = FrozenBatchNorm2d.from_batch_norm(norm)
    before = snapshot(frozen)
    norm(normal(4, 3, 5, 5, seed=9))
    with torch.no_grad():
        norm.weight.add_(1)
    assert same(snapshot(frozen), before)


def test_from_batch_norm_keeps_activation_mode_and_dtype():
    norm = gb.BatchNorm2d(3, eps=0.5, activation="relu", dtype=torch.float64).eval()
    frozen = FrozenBatchNorm2d.from_batch_norm(norm)
    assert (frozen.activation, frozen.eps, frozen.training) == ("relu", 0.5, False)
    assert frozen.weight.dtype == torch.float64
    x = normal(2, 3, 4, 4, dtype=torch.float64)
    skip = normal(2, 3, 4, 4, seed=1, dtype=torch.float64)
    assert torch.equal(frozen(x, residual=skip), norm(x, residual=skip))
    assert repr(frozen) == "FrozenBatchNorm2d(3, eps=0.5, affine=True, activation='relu')"


def test_gradients_reach_the_input():
    frozen = FrozenBatchNorm1d.from_batch_norm(trained(nn.BatchNorm1d, (6, 3), dtype=torch.float64))
    x = normal(4, 3, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(frozen, x)
    assert torch.autograd.gradgradcheck(lambda x: frozen(x) ** 2, x)
    frozen(x).sum().backward()
    slope = frozen.weight / (frozen.running_var + frozen.eps).sqrt()
    torch.testing.assert_close(x.grad, slope.expand(4, 3), **EXACT)


def test_pickle_and_deepcopy():
    frozen = FrozenBatchNorm2d.from_batch_norm(trained(nn.BatchNorm2d, (4, 3, 5, 5)))
    x = normal(2, 3, 4, 4)
    for twin in (copy.deepcopy(frozen), pickle.loads(pickle.dumps(frozen))):
        assert torch.equal(twin(x), frozen(x))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs below 16: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-4), (torch.float16, 2**-7)],
)
def test_half_inputs_with_float32_buffers(dtype, tolerance):
    frozen = FrozenBatchNorm2d.from_batch_norm(trained(nn.BatchNorm2d, (4, 3, 5, 5)))
    x = (normal(2, 3, 4, 4) * 2 + 1).to(dtype)
    expected = reference.batch_norm_inference(
        x.double(),
        *(getattr(frozen, n).double() for n in ("running_mean", "running_var", "weight", "bias")),
    )
    assert bool((expected.abs() < 16).all())
    assert frozen(x).dtype == dtype
    torch.testing.assert_close(frozen(x).double(), expected, rtol=0, atol=tolerance)


def test_channels_last_is_kept():
    frozen = FrozenBatchNorm2d.from_batch_norm(trained(nn.BatchNorm2d, (4, 3, 5, 5)))
    x = normal(2, 3, 4, 4)
    y = frozen(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, frozen(x), rtol=1e-6, atol=1e-6)


def test_batches_of_one_and_none_in_training_mode():
    frozen = FrozenBatchNorm1d.from_batch_norm(trained(nn.BatchNorm1d, (6, 3)))
    x = normal(4, 3)
    assert torch.equal(frozen(x[:1]), frozen(x)[:1])
    assert frozen(x[:0]).shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: FrozenBatchNorm2d(0), "num_features=0.*1 or more"),
        (lambda: FrozenBatchNorm2d(3, activation="rleu"), "did you mean 'relu'"),
        (lambda: FrozenBatchNorm1d(3)(torch.ones(2, 3, 1, 1)), "of 2 or 3 dims"),
        (lambda: FrozenBatchNorm2d(3)(torch.ones(2, 3)), r"shape \(2, 3\).*of 4 dims"),
        (lambda: FrozenBatchNorm3d(3)(torch.ones(2, 4, 1, 1, 1)), "num_features = 3"),
        (
            lambda: FrozenBatchNorm1d(3)(torch.ones(2, 3), torch.ones(2, 1)),
            "residual has shape",
        ),
        (
            lambda: FrozenBatchNorm2d.from_batch_norm(nn.BatchNorm2d(3, track_running_stats=False)),
            "no statistics to freeze",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


def test_only_batch_norms_can_be_frozen():
    with pytest.raises(TypeError, match="norm is a LayerNorm"):
        FrozenBatchNorm2d.from_batch_norm(nn.LayerNorm(3))


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 4)),
    var=st.sampled_from([0.0, 1e-30, 1.0, 1e12]),
    mean=st.sampled_from([0.0, 1e6]),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_formula_for_any_statistics(shape, var, mean, seed):
    frozen = FrozenBatchNorm1d(shape[1], dtype=torch.float64)
    frozen.running_var.fill_(var)
    frozen.running_mean.fill_(mean)
    x = normal(*shape, seed=seed, dtype=torch.float64).transpose(0, 2).contiguous().transpose(0, 2)
    x = x * (var + frozen.eps) ** 0.5 + mean
    expected = reference.batch_norm_inference(x, frozen.running_mean, frozen.running_var)
    # (x − μ) / σ = x/σ − μ/σ cancels 1e6 / 1e-5^½ = 3e8 to values of order 1: nine digits gone.
    torch.testing.assert_close(frozen(x), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = FrozenBatchNorm1d(3, device="meta").train(training)
    y = layer(torch.empty(2, 3, device="meta"))
    assert (y.shape, y.device.type) == ((2, 3), "meta")
