"""Dynamic tanh against its formula, and layer norm's habits, which it takes the place of."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.layers import DynamicTanh
from gammabeta.ops.reference import other_norms

# Float64 against float64; the reference's 1 − 2 / (e^2z + 1) cancels at small z, to 1e-16 absolute.
EXACT = {"rtol": 1e-13, "atol": 1e-14}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer_with_parameters(**arguments: object) -> DynamicTanh:
    layer = DynamicTanh(3, dtype=torch.float64, **arguments)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer


def test_hand_computed():
    # tanh(0.5 · 2 ln 3 · …): tanh(ln 3) = (3 − 1/3) / (3 + 1/3) = 0.8.
    layer = DynamicTanh(1, dtype=torch.float64)
    y = layer(torch.tensor([[2 * math.log(3)], [0.0], [-2 * math.log(3)]], dtype=torch.float64))
    torch.testing.assert_close(y.flatten().tolist(), [0.8, 0.0, -0.8], rtol=1e-15, atol=1e-15)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 5, 3)])
def test_agrees_with_the_formula(shape):
    layer, x = layer_with_parameters(alpha=0.8), normal(*shape) * 3
    expected = other_norms.dynamic_tanh(x, layer.alpha, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    assert torch.equal(layer.eval()(x), layer.train()(x))


def test_limits():
    x = normal(4, 3)
    small = DynamicTanh(3, alpha=1e-6, dtype=torch.float64)
    # tanh z = z − z³/3: relative 1e-12 for z up to 3e-6.
    torch.testing.assert_close(small(x) / 1e-6, x, rtol=1e-10, atol=0)
    large = DynamicTanh(3, alpha=1e6, dtype=torch.float64)
    torch.testing.assert_close(large(x), x.sign(), rtol=0, atol=0)


def test_paper_defaults_and_published_parameter_names():
    layer = DynamicTanh(2)
    state = {name: value.tolist() for name, value in layer.state_dict().items()}
    assert state == {"alpha": [0.5], "weight": [1, 1], "bias": [0, 0]}


def test_gradients():
    layer, v = layer_with_parameters(), normal(4, 3, seed=1)
    names = [name for name, _ in layer.named_parameters()]

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, named, (x,)) * v

    inputs = (normal(4, 3).requires_grad_(), *layer.parameters())
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs up to 1 in size: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-9), (torch.float16, 2**-12)],
)
def test_half_inputs_with_float32_parameters(dtype, tolerance):
    x = (normal(4, 3) * 2).to(dtype)
    y = DynamicTanh(3)(x)
    assert y.dtype == dtype
    expected = torch.tanh(0.5 * x.double())
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)


def test_several_dims_residual_and_activation():
    layer = DynamicTanh((2, 3), dtype=torch.float64, activation="relu")
    x, skip = normal(4, 2, 3), normal(4, 2, 3, seed=1)
    expected = torch.relu(torch.tanh(0.5 * x) + skip)
    torch.testing.assert_close(layer(x, residual=skip), expected, **EXACT)
    assert repr(layer) == (
        "DynamicTanh((2, 3), alpha=0.5, elementwise_affine=True, activation='relu')"
    )


def test_channels_last_is_kept():
    x = normal(2, 3, 4, 5, dtype=torch.float32).to(memory_format=torch.channels_last)
    assert DynamicTanh(5)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ({}, ["alpha", "weight", "bias"]),
        ({"bias": False}, ["alpha", "weight"]),
        ({"elementwise_affine": False}, ["alpha"]),
    ],
)
def test_state_dict_pickle_and_deepcopy(arguments, keys):
    layer = DynamicTanh(3, **arguments)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert list(layer.state_dict()) == keys
    again = DynamicTanh(3, **arguments)
    again.load_state_dict(layer.state_dict())
    x = normal(2, 3, dtype=torch.float32)
    for twin in (again, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))
    again.reset_parameters()
    assert again.alpha.tolist() == [0.5]


def test_empty_batch():
    x = torch.zeros(0, 3, requires_grad=True)
    DynamicTanh(3)(x).sum().backward()
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: DynamicTanh(0), "normalized_shape=0.*such as 64"),
        (lambda: DynamicTanh(()), r"normalized_shape=\(\)"),
        (lambda: DynamicTanh(3, alpha=0), "alpha=0.*above 0"),
        (lambda: DynamicTanh(3, activation="rleu"), "did you mean 'relu'"),
        (lambda: DynamicTanh(3)(torch.ones(2, 4)), r"x has shape \(2, 4\).*\(3,\)"),
        (lambda: DynamicTanh((2, 3))(torch.ones(3)), r"x has shape \(3,\)"),
        (lambda: DynamicTanh(3)(torch.ones(2, 3), torch.ones(3)), "residual has shape"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    alpha=st.floats(0.01, 4),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_formula_for_any_shape(shape, scale, alpha, seed):
    x = normal(*shape, seed=seed) * scale
    layer = DynamicTanh(shape[-1], alpha=alpha, dtype=torch.float64)
    expected = other_norms.dynamic_tanh(x, layer.alpha, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = DynamicTanh(3, device="meta").train(training)
    y = layer(torch.empty(2, 3, device="meta"))
    assert (y.shape, y.device.type) == ((2, 3), "meta")
