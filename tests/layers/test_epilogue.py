"""What follows normalization: every activation with and without a residual, and the refusals."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from gammabeta.ops.activations import ACTIVATIONS
from tests.layers.agreement import agree
from tests.layers.cases import CASES, Case, dress

CASES_HERE = [CASES[name] for name in ("batch1d", "batch2d", "batch3d", "layer", "group", "rms")]
one_of_each = pytest.mark.parametrize("case", CASES_HERE, ids=lambda c: c.ours.__name__)
combinations = pytest.mark.parametrize(
    ("activation", "with_residual"), list(itertools.product([None, *ACTIVATIONS], [False, True]))
)

COMPOSED = {
    None: lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "silu": F.silu,
    "gelu": F.gelu,
    "sigmoid": F.sigmoid,
    "tanh": F.tanh,
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "mish": F.mish,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}

KINKS = {
    "relu": (0,),
    "leaky_relu": (0,),
    "relu6": (0, 6),
    "hardswish": (-3, 3),
    "hardsigmoid": (-3, 3),
}
"""Where the slope of an activation jumps."""


def test_the_list_here_is_complete() -> None:
    assert set(COMPOSED) == {None, *ACTIVATIONS}


@one_of_each
@combinations
@pytest.mark.parametrize("training", [True, False])
def test_fused_equals_torchs_operators_one_after_the_other(
    case: Case, activation: str | None, with_residual: bool, training: bool
) -> None:
    fused, norm = case.make(activation=activation), case.make_twin()
    results = []
    for layer in (fused, norm):
        layer(case.input(seed=3))
        layer.train(training)
        x, residual = case.input().requires_grad_(), case.input(seed=1).requires_grad_()
        if layer is fused:
            y = layer(x, residual=residual) if with_residual else layer(x)
        else:
            y = layer(x)
            y = COMPOSED[activation](y + residual if with_residual else y)
        y.backward(case.input(seed=2))
        parameters = [p.grad for p in layer.parameters()]
        results.append([y.detach(), x.grad, *parameters, *layer.buffers()])
        results[-1].extend([residual.grad] if with_residual else [])
        assert with_residual or residual.grad is None
    agree(*results)


SMALL = {  # finite differences cost a forward pass an element
    "BatchNorm1d": (gb.BatchNorm1d, (2,), (4, 2)),
    "BatchNorm2d": (gb.BatchNorm2d, (2,), (2, 2, 2, 2)),
    "BatchNorm3d": (gb.BatchNorm3d, (2,), (2, 2, 2, 1, 2)),
    "LayerNorm": (gb.LayerNorm, (4,), (3, 4)),
    "GroupNorm": (gb.GroupNorm, (2, 4), (2, 4, 2)),
    "RMSNorm": (gb.RMSNorm, (4,), (3, 4)),
}


@pytest.mark.parametrize(("kind", "arguments", "shape"), SMALL.values(), ids=SMALL.keys())
@combinations
def test_gradcheck(
    kind: type[nn.Module],
    arguments: tuple[int, ...],
    shape: tuple[int, ...],
    activation: str | None,
    with_residual: bool,
) -> None:
    layer = dress(kind(*arguments, activation=activation)).double()
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    residual = torch.randn(shape, dtype=torch.float64, generator=generator).requires_grad_()
    inputs = (x, residual) if with_residual else (x,)
    names = [name for name, _ in layer.named_parameters()]

    def forward(*values: torch.Tensor) -> object:
        parameters = dict(zip(names, values[len(inputs) :], strict=True))
        return torch.func.functional_call(layer, parameters, values[: len(inputs)])

    parameters = [p.detach().clone().requires_grad_() for p in layer.parameters()]
    for kink in KINKS.get(activation or "", ()):
        # No output may lie so near the kink that the step of 1e-6 crosses it.
        plain = dress(kind(*arguments)).double()
        assert (plain(*inputs) - kink).abs().min() > 1e-4
    assert torch.autograd.gradcheck(forward, (*inputs, *parameters))


@one_of_each
def test_residual_is_positional_too(case: Case) -> None:
    layer, x, residual = case.make(), case.input(), case.input(seed=1)
    layer.eval()
    assert torch.equal(layer(x, residual), layer(x, residual=residual))
    assert not torch.equal(layer(x, residual), layer(x))


@one_of_each
def test_inputs_are_not_written_to(case: Case) -> None:
    for activation in (None, *ACTIVATIONS):
        x, residual = case.input(), case.input(seed=1)
        case.make(activation=activation)(x, residual)
        assert torch.equal(x, case.input())
        assert torch.equal(residual, case.input(seed=1))


@one_of_each
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rleu", "activation='rleu' is not known; did you mean 'relu'? Choices: relu, leaky_relu,"),
        ("GELU", "activation='GELU' is not known; choices: relu,"),
        ("", "activation='' is not known; choices: relu,"),
        (3, "activation=3 is not known; choices: relu,"),
        (torch.relu, "activation=<built-in method relu of type object"),
    ],
    ids=["misspelt", "upper case", "empty", "number", "function"],
)
def test_unknown_activation(case: Case, given: object, said: str) -> None:
    with pytest.raises(ValueError, match="is not known") as caught:
        case.ours(*case.arguments, activation=given)
    assert str(caught.value).startswith(said)


@one_of_each
def test_residual_that_is_no_tensor(case: Case) -> None:
    with pytest.raises(TypeError, match="residual is a float; give a tensor shaped as input"):
        case.make()(case.input(), residual=1.0)


@one_of_each
def test_residual_of_another_shape(case: Case) -> None:
    layer, x = case.make(), case.input()
    state = {k: v.clone() for k, v in layer.state_dict().items()}
    for bad in (x[:1], x[..., :1], x.unsqueeze(0), torch.zeros(())):
        with pytest.raises(ValueError, match="residual has shape") as caught:
            layer(x, residual=bad)
        assert str(caught.value) == (
            f"residual has shape {tuple(bad.shape)}; it is added to the normalized input, "
            f"so it needs the input's shape {tuple(x.shape)}"
        )
    # A refused call leaves no trace, not even in num_batches_tracked.
    assert all(torch.equal(v, state[k]) for k, v in layer.state_dict().items())


def test_activation_is_keyword_only() -> None:
    with pytest.raises(TypeError, match="positional"):
        gb.BatchNorm1d(4, 1e-5, 0.1, True, True, None, None, "relu")  # type: ignore[misc]
