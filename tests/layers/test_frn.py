"""Filter response normalization and TLU: a hand-computed example, the formula, the limits."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.layers import TLU, FilterResponseNorm2d
from gammabeta.ops.reference import other_norms

# Float64 against float64: some tens of values a sum, 1e-15 relative to values of order 1.
EXACT = {"rtol": 1e-13, "atol": 1e-13}


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer_with_parameters(**arguments: object) -> FilterResponseNorm2d:
    layer = FilterResponseNorm2d(3, dtype=torch.float64, **arguments)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    return layer


def test_hand_computed():
    # ν² of 1, 7, 5, 5 is (1 + 49 + 25 + 25) / 4 = 25; of 3, −3, 3, −3 it is 9. With ε = 11 and
    # 7 the roots are 6 and 4.
    x = torch.tensor([[1.0, 7.0], [5.0, 5.0]], dtype=torch.float64).view(1, 1, 2, 2)
    layer = FilterResponseNorm2d(1, eps=11, dtype=torch.float64)
    expected = torch.tensor([1 / 6, 7 / 6, 5 / 6, 5 / 6], dtype=torch.float64)
    torch.testing.assert_close(layer(x).flatten(), expected, **EXACT)
    layer = FilterResponseNorm2d(1, eps=7, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.fill_(2)
        layer.bias.fill_(0.25)
    unit = TLU(1, dtype=torch.float64)
    nn.init.constant_(unit.tau, -0.5)
    y = unit(layer(torch.tensor([[3.0, -3.0], [3.0, -3.0]], dtype=torch.float64).view(1, 1, 2, 2)))
    assert y.flatten().tolist() == [1.75, -0.5, 1.75, -0.5]  # ±3/4 · 2 + 1/4, cut at −1/2


def test_agrees_with_the_formula_and_with_itself_in_evaluation():
    layer, x = layer_with_parameters(), normal(2, 3, 4, 5) * 3 + 1
    expected = other_norms.filter_response_norm(x, layer.weight, layer.bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    assert torch.equal(layer.eval()(x), layer.train()(x))
    assert torch.equal(layer(x[:1]), layer(x)[:1])  # no other example has a part in it


def test_paper_defaults():
    layer, unit = FilterResponseNorm2d(2, learned_eps=True), TLU(2)
    assert layer.eps == 1e-6
    assert layer.eps_l.tolist() == pytest.approx([1e-4])
    assert (layer.weight.tolist(), layer.bias.tolist()) == ([1, 1], [0, 0])
    assert unit.tau.tolist() == [0, 0]


@pytest.mark.parametrize("learned", [0.3, -0.3])
def test_learned_eps_is_added_by_its_size(learned):
    layer = layer_with_parameters(learned_eps=True)
    nn.init.constant_(layer.eps_l, learned)
    x = normal(2, 3, 1, 1)  # 1×1 maps: what it is for
    expected = other_norms.filter_response_norm(x, layer.weight, layer.bias, 1e-6 + 0.3)
    torch.testing.assert_close(layer(x), expected, **EXACT)
    layer(x).sum().backward()
    assert float(layer.eps_l.grad.abs()) > 0
    # Without it a 1×1 map keeps its sign and no more.
    plain = FilterResponseNorm2d(3, affine=False)(x)
    torch.testing.assert_close(plain, x.sign(), rtol=0, atol=1e-3)


def test_scale_of_the_input_cancels():
    layer, x = layer_with_parameters(), normal(2, 3, 4, 4)
    # ε is 1e-6 of ν² at scale 1, half of which is the relative difference.
    torch.testing.assert_close(layer(x * 1e3), layer(x), rtol=1e-5, atol=1e-5)


def test_tlu_agrees_with_the_formula():
    unit = TLU(3, dtype=torch.float64)
    with torch.no_grad():
        unit.tau.copy_(torch.tensor([-0.5, 0.0, 0.7]))
    for shape in ((4, 3), (4, 3, 5), (4, 3, 2, 2)):
        x = normal(*shape)
        expected = other_norms.thresholded_linear_unit(x, unit.tau)
        torch.testing.assert_close(unit(x), expected, **EXACT)


def test_tlu_limits():
    unit, x = TLU(3), normal(4, 3, 2, 2, dtype=torch.float32)
    assert torch.equal(unit(x), torch.relu(x))
    nn.init.constant_(unit.tau, -math.inf)
    y = unit(x.requires_grad_())
    y.sum().backward()
    assert torch.equal(y, x)
    assert x.grad.tolist() == torch.ones_like(x).tolist()
    assert unit.tau.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize("learned_eps", [False, True])
def test_gradients(learned_eps):
    layer = layer_with_parameters(learned_eps=learned_eps)
    names = [name for name, _ in layer.named_parameters()]
    v = normal(2, 3, 2, 3, seed=1)

    def loss(x: Tensor, *values: Tensor) -> Tensor:
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(layer, named, (x,)) * v

    inputs = (normal(2, 3, 2, 3).requires_grad_(), *layer.parameters())
    # |ε_l| has its kink 1e-4 away from ε_l; the numerical step is 1e-6.
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


def test_tlu_gradients():
    unit = TLU(3, dtype=torch.float64)
    with torch.no_grad():
        unit.tau.copy_(torch.tensor([-0.5, 0.0, 0.7]))
    x = normal(4, 3).requires_grad_()
    assert bool(((x - unit.tau).abs() > 1e-3).all())  # no kink within the numerical step

    def loss(x: Tensor, tau: Tensor) -> Tensor:
        return torch.func.functional_call(unit, {"tau": tau}, (x,)) ** 2

    assert torch.autograd.gradcheck(loss, (x, unit.tau))
    assert torch.autograd.gradgradcheck(loss, (x, unit.tau))


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs up to 4 in size: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-6), (torch.float16, 2**-9)],
)
def test_half_inputs_with_float32_parameters(dtype, tolerance):
    # 500² overflows float16, whose largest number is 65504.
    x = (normal(2, 3, 4, 4) * 500).to(dtype)
    layer = FilterResponseNorm2d(3)
    y = layer(x)
    expected = other_norms.filter_response_norm(x.double(), torch.ones(3), torch.zeros(3))
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
    assert TLU(3)(x).dtype == dtype


def test_channels_last_is_kept():
    block = nn.Sequential(FilterResponseNorm2d(3), TLU(3))
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    y = block(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, block(x), rtol=1e-6, atol=1e-6)  # another order of float32 sums


def test_residual_and_activation_come_last():
    layer, plain = layer_with_parameters(activation="silu"), layer_with_parameters()
    x, skip = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    expected = nn.functional.silu(plain(x) + skip)
    torch.testing.assert_close(layer(x, residual=skip), expected, **EXACT)
    assert repr(layer) == (
        "FilterResponseNorm2d(3, eps=1e-06, affine=True, learned_eps=False, activation='silu')"
    )


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        ({}, ["weight", "bias"]),
        ({"bias": False}, ["weight"]),
        ({"affine": False}, []),
        ({"learned_eps": True}, ["weight", "bias", "eps_l"]),
    ],
)
def test_state_dict_pickle_and_deepcopy(arguments, keys):
    layer = FilterResponseNorm2d(3, **arguments)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    assert list(layer.state_dict()) == keys
    again = FilterResponseNorm2d(3, **arguments)
    again.load_state_dict(layer.state_dict())
    x = normal(2, 3, 4, 4, dtype=torch.float32)
    for twin in (again, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


def test_zero_maps_and_empty_batches():
    layer = layer_with_parameters()
    x = torch.zeros(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(y, layer.bias.view(1, 3, 1, 1).expand_as(y))
    assert bool(x.grad.isfinite().all())
    empty = torch.zeros(0, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    layer(empty).sum().backward()
    assert empty.grad.shape == empty.shape


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: FilterResponseNorm2d(0), "num_features=0.*1 or more"),
        (lambda: FilterResponseNorm2d(3, eps=0), "eps=0.*above 0"),
        (lambda: FilterResponseNorm2d(3, activation="tlu"), "activation='tlu' is not known"),
        (lambda: FilterResponseNorm2d(3)(torch.ones(2, 3)), r"shape \(2, 3\); .*\(N, C, H, W\)"),
        (lambda: FilterResponseNorm2d(3)(torch.ones(2, 4, 2, 2)), "num_features = 3"),
        (
            lambda: FilterResponseNorm2d(3)(torch.ones(2, 3, 2, 2), torch.ones(2, 3, 1, 1)),
            "residual has shape",
        ),
        (lambda: TLU(0), "num_features=0.*1 or more"),
        (lambda: TLU(3)(torch.ones(3)), "TLU takes"),
        (lambda: TLU(3)(torch.ones(2, 4)), "num_features = 3"),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match) as error:
        call()
    assert "\n" not in str(error.value)


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e6]),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_formula_for_any_shape_and_scale(shape, scale, seed):
    x = normal(*shape, seed=seed).transpose(2, 3) * scale
    weight, bias = normal(shape[1], seed=1), normal(shape[1], seed=2)
    layer = FilterResponseNorm2d(shape[1], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    expected = other_norms.filter_response_norm(x, weight, bias)
    torch.testing.assert_close(layer(x), expected, **EXACT)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = (
        nn.Sequential(FilterResponseNorm2d(3, learned_eps=True), TLU(3)).to("meta").train(training)
    )
    y = layer(torch.empty(2, 3, 4, 4, device="meta"))
    assert (y.shape, y.device.type) == ((2, 3, 4, 4), "meta")
