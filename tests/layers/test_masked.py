"""Masked batch norm: what padding holds never matters, and a full mask is batch norm."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.layers import MaskedBatchNorm1d, NonFiniteBatchWarning
from gammabeta.ops.reference import other_norms
from tests.layers.agreement import agree

# Float64 against float64: tens of values a sum, 1e-15 relative to values of order 1.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def mask_of(*lengths: int, size: int) -> Tensor:
    return torch.arange(size) < torch.tensor(lengths).unsqueeze(1)


def layer_with_parameters(**arguments: object) -> MaskedBatchNorm1d:
    layer = MaskedBatchNorm1d(3, dtype=torch.float64, **arguments)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


MASK = mask_of(5, 2, 1, 0, size=5)


def test_agrees_with_the_formula():
    layer, x = layer_with_parameters(), normal(4, 3, 5) * 2 + 1
    expected = other_norms.masked_batch_norm(x, MASK, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x, MASK), expected, **EXACT)
    real = x.transpose(1, 2)[MASK]  # (8, 3)
    torch.testing.assert_close(layer.running_mean, 0.1 * real.mean(0), **EXACT)
    torch.testing.assert_close(layer.running_var, 0.9 + 0.1 * real.var(0), **EXACT)


def test_evaluation_uses_the_running_statistics():
    layer, x = layer_with_parameters(), normal(4, 3, 5)
    layer(x, MASK)
    before = snapshot(layer)
    y = layer.eval()(x, MASK)
    real = MASK.unsqueeze(1)
    torch.testing.assert_close(y, torch.where(real, layer(x), 0), **EXACT)
    assert same(snapshot(layer), before)


@pytest.mark.parametrize("fill", [float("nan"), float("inf"), 1e30, -7.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", [None, "sigmoid", "gelu"])
def test_padding_never_matters(fill, training, activation):
    results = []
    for value in (0.0, fill):
        layer = layer_with_parameters(activation=activation).train(training)
        hidden = ~MASK.unsqueeze(1)
        x = normal(4, 3, 5).masked_fill(hidden, value).requires_grad_()
        skip = normal(4, 3, 5, seed=1).masked_fill(hidden, value).requires_grad_()
        y = layer(x, MASK, skip)
        y.backward(normal(4, 3, 5, seed=2))
        results.append([y.detach(), x.grad, skip.grad, *(p.grad for p in layer.parameters())])
        results[-1] += layer.state_dict().values()
        assert int(y.detach()[hidden.expand_as(y)].count_nonzero()) == 0
        assert int(x.grad[hidden.expand_as(y)].count_nonzero()) == 0
    for zeros, filled in zip(*results, strict=True):
        assert bool(filled.isfinite().all())
        assert torch.equal(zeros, filled)


@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5)])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_full_mask_is_batch_norm(shape, momentum):
    layer = MaskedBatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    norm = nn.BatchNorm1d(3, momentum=momentum, dtype=torch.float64)
    mask = torch.ones(shape[0], *shape[2:], dtype=torch.bool)
    for seed in range(3):
        grads = []
        for call in (lambda x: layer(x, mask), norm):
            x = (normal(*shape, seed=seed) * 3 + 1).requires_grad_()
            y = call(x)
            y.backward(normal(*shape, seed=9))
            grads.append((y.detach(), x.grad))
        for ours, theirs in zip(*grads, strict=True):
            torch.testing.assert_close(ours, theirs, **EXACT)
    torch.testing.assert_close(layer.weight.grad, norm.weight.grad, **EXACT)
    for name, value in norm.state_dict().items():
        torch.testing.assert_close(layer.state_dict()[name], value, **EXACT)
    x = normal(*shape, seed=5)
    torch.testing.assert_close(layer.eval()(x, mask), norm.eval()(x), **EXACT)


def test_without_a_mask_it_is_batch_norm():
    layer, norm = MaskedBatchNorm1d(3), nn.BatchNorm1d(3)
    x = normal(4, 3, 5, dtype=torch.float32)
    agree(layer(x), norm(x))
    agree(snapshot(layer), snapshot(norm))


@pytest.mark.parametrize("training", [True, False])
def test_a_batch_that_is_all_padding_gives_zeros_and_no_statistics(training):
    layer = layer_with_parameters().train(training)
    before = snapshot(layer)
    x = torch.full((2, 3, 4), float("nan"), dtype=torch.float64, requires_grad=True)
    y = layer(x, torch.zeros(2, 4, dtype=torch.bool))
    y.sum().backward()
    assert int(y.count_nonzero()) == 0
    assert int(x.grad.count_nonzero()) == 0
    assert layer.bias.grad.tolist() == [0, 0, 0]
    assert same(snapshot(layer), before)


def test_a_single_real_value_gives_beta_and_no_statistics():
    layer = layer_with_parameters()
    before = snapshot(layer)
    mask = mask_of(1, 0, size=4)
    y = layer(normal(2, 3, 4), mask)
    assert y[0, :, 0].tolist() == [1.0, 0.0, -3.0]
    assert int(y[0, :, 1:].count_nonzero()) == 0
    assert same(snapshot(layer), before)


def test_cumulative_average_skips_batches_without_statistics():
    layer = MaskedBatchNorm1d(3, momentum=None, dtype=torch.float64)
    real = []
    for seed, lengths in enumerate([(5, 2), (0, 0), (1, 0), (3, 3)]):
        x, mask = normal(2, 3, 5, seed=seed), mask_of(*lengths, size=5)
        layer(x, mask)
        if sum(lengths) > 1:
            real.append(x.transpose(1, 2)[mask])
    assert int(layer.num_batches_tracked) == len(real) == 2
    torch.testing.assert_close(
        layer.running_mean, torch.stack([r.mean(0) for r in real]).mean(0), **EXACT
    )
    torch.testing.assert_close(
        layer.running_var, torch.stack([r.var(0) for r in real]).mean(0), **EXACT
    )


def test_a_non_finite_real_value_leaves_the_statistics_alone():
    layer = layer_with_parameters()
    before = snapshot(layer)
    x = normal(4, 3, 5)
    x[0, 1, 0] = float("inf")
    with pytest.warns(NonFiniteBatchWarning):
        y = layer(x, MASK)
    assert bool(y[0, 1].isnan().any())
    assert layer.refused_batches == 1
    assert bool(y[0, 0].isfinite().all())
    assert same(snapshot(layer), before)


def test_untracked_statistics_use_the_batch_in_evaluation_too():
    layer = MaskedBatchNorm1d(3, track_running_stats=False)
    x = normal(4, 3, 5, dtype=torch.float32)
    assert torch.equal(layer.eval()(x, MASK), layer.train()(x, MASK))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4, 3)])
def test_gradients(shape):
    layer = MaskedBatchNorm1d(3, momentum=0.0, dtype=torch.float64)
    mask = MASK if len(shape) == 3 else torch.tensor([True, True, False, True])
    v = normal(*shape, seed=1)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x, mask))
        return out * v

    inputs = (normal(*shape).requires_grad_(), layer.weight, layer.bias)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_state_dict_pickle_and_deepcopy():
    layer = MaskedBatchNorm1d(3, activation="relu")
    x = normal(4, 3, 5, dtype=torch.float32)
    layer(x, MASK)
    assert isinstance(layer, nn.BatchNorm1d)
    norm = nn.BatchNorm1d(3)
    norm.load_state_dict(layer.state_dict())
    again = MaskedBatchNorm1d(3, activation="relu")
    again.load_state_dict(norm.state_dict())
    layer.eval()
    for twin in (again.eval(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, MASK), layer(x, MASK))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs below 4: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)],
)
def test_half_inputs_with_float32_parameters(dtype, tolerance):
    layer, x = MaskedBatchNorm1d(3), (normal(4, 3, 5) * 2 + 1).to(dtype)
    y = layer(x, MASK)
    expected = other_norms.masked_batch_norm(
        x.double(), MASK, layer.weight.double(), layer.bias.double()
    )
    assert y.dtype == dtype
    assert bool((expected.abs() < 4).all())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
    assert layer.running_mean.dtype == torch.float32


def test_mean_far_from_zero():
    x = (normal(8, 1, 16) + 1e6).float()
    mask = mask_of(*range(9, 17), size=16)
    expected = other_norms.masked_batch_norm(
        x.double(), mask, torch.ones(1).double(), torch.zeros(1).double()
    )
    # The float32 input is exact in the reference too; unshifted sums would be off by 0.1.
    y = MaskedBatchNorm1d(1)(x, mask)
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-5)


def test_memory_layout_is_kept():
    x = normal(4, 5, 3, dtype=torch.float32).transpose(1, 2)  # (N, C, L) as a view of (N, L, C)
    y = MaskedBatchNorm1d(3)(x, MASK)
    assert y.stride() == x.stride()
    torch.testing.assert_close(y, MaskedBatchNorm1d(3)(x.contiguous(), MASK), rtol=1e-5, atol=1e-5)


def test_empty_batch():
    layer = MaskedBatchNorm1d(3)
    before = snapshot(layer)
    assert layer(torch.zeros(0, 3, 5), torch.zeros(0, 5, dtype=torch.bool)).shape == (0, 3, 5)
    assert same(snapshot(layer), before)


@pytest.mark.parametrize(
    ("x", "mask", "residual", "error", "match"),
    [
        (torch.ones(2, 3, 4), torch.ones(2, 4), None, TypeError, r"float32.*mask.bool\(\)"),
        (torch.ones(2, 3, 4), torch.ones(2, 3) > 0, None, ValueError, r"\(2, 3\).*\(2, 4\)"),
        (torch.ones(2, 3, 4), torch.ones(2, 3, 4) > 0, None, ValueError, r"needs \(2, 4\)"),
        (torch.ones(2, 3), torch.ones(2, 1) > 0, None, ValueError, r"needs \(2,\)"),
        (torch.ones(2, 4, 4), torch.ones(2, 4) > 0, None, ValueError, "num_features=3"),
        (torch.ones(2, 3, 4, 1), torch.ones(2, 4) > 0, None, ValueError, "2D or 3D"),
        (torch.ones(2, 3), torch.ones(2) > 0, torch.ones(2, 1), ValueError, "residual has shape"),
        (torch.ones(1, 3), torch.ones(1) > 0, None, ValueError, "one value per feature"),
    ],
)
def test_state_is_untouched_when_forward_raises(x, mask, residual, error, match):
    layer = MaskedBatchNorm1d(3)
    before = snapshot(layer)
    with pytest.raises(error, match=match) as raised:
        layer(x, mask, residual)
    assert "\n" not in str(raised.value)
    assert same(snapshot(layer), before)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(lambda v: sum(v) > 0),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 1e3]),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_formula_for_any_lengths(lengths, scale, offset, seed):
    x = normal(len(lengths), 2, 6, seed=seed) * scale + offset
    mask = mask_of(*lengths, size=6)
    layer = MaskedBatchNorm1d(2, dtype=torch.float64)
    expected = other_norms.masked_batch_norm(x, mask, layer.weight, layer.bias)
    # A mean of 1e6 scales costs six of the sixteen digits, more where two values nearly agree.
    torch.testing.assert_close(layer(x, mask), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = MaskedBatchNorm1d(3, device="meta").train(training)
    y = layer(torch.empty(2, 3, 5, device="meta"), torch.ones(2, 5, device="meta") > 0)
    assert (y.shape, y.device.type) == ((2, 3, 5), "meta")
