"""The dispatch: whichever path it takes, the four functions mean what `reference` says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from gammabeta import ops
from gammabeta.ops import registry
from gammabeta.ops.activations import (
    ACTIVATIONS,
    MODULES,
    activate,
    activation_gradient,
    known_activation,
    module_of,
)
from gammabeta.ops.reference import torch_norms as reference
from tests.ops import calls

WRITTEN_OUT: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / 2**0.5)),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: (torch.exp(x) - torch.exp(-x)) / (torch.exp(x) + torch.exp(-x)),
    "relu6": lambda x: torch.minimum(torch.relu(x), torch.full_like(x, 6)),
    "hardswish": lambda x: x * torch.relu(x + 3).clamp(max=6) / 6,
    "hardsigmoid": lambda x: torch.relu(x + 3).clamp(max=6) / 6,
    "mish": lambda x: x * torch.tanh(torch.log(1 + torch.exp(x))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
}


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=generator)


def test_every_activation_is_the_function_of_its_name() -> None:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    assert set(WRITTEN_OUT) == set(ACTIVATIONS)
    for name, formula in WRITTEN_OUT.items():
        # float64; the written-out tanh loses a digit or two to its exponentials.
        torch.testing.assert_close(activate(x, name), formula(x), rtol=1e-13, atol=1e-13)
    assert activate(x, None) is x


def test_an_activation_module_has_the_name_of_its_function() -> None:
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    for module, name in MODULES.items():
        assert torch.equal(module()(x), ACTIVATIONS[name](x))
    for name, function in ACTIVATIONS.items():
        assert torch.equal(module_of(name)(x), function(x))
    with pytest.raises(ValueError, match=r"^activation='swish' is not known"):
        module_of("swish")


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("slope", [0.01, 0.3, 0.0, -0.5, 2.0])
def test_the_gradient_is_that_of_the_function(activation: str | None, slope: float) -> None:
    # Every kink is among the points: torch's own kernels give both gradients there.
    x = torch.linspace(-8, 8, 129, dtype=torch.float64).requires_grad_()
    g = drawn(129)
    y = activate(x, activation, slope)
    (expected,) = torch.autograd.grad(y, x, g)
    assert torch.equal(activation_gradient(g, x.detach(), activation, slope), expected)
    if activation == "leaky_relu":
        torch.testing.assert_close(y, torch.where(x > 0, x, slope * x), rtol=1e-15, atol=0)


@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_scripts_have_every_activation() -> None:
    scripted = torch.jit.script(activate)
    x = torch.linspace(-8, 8, 129)
    for name in (None, *ACTIVATIONS):
        for slope in (0.01, 0.3):
            assert torch.equal(scripted(x, name, slope), activate(x, name, slope))


def test_known_activation() -> None:
    assert known_activation(None) is None
    assert known_activation("gelu") == "gelu"
    with pytest.raises(ValueError, match=r"^activation='geluu' is not known; did you mean 'gelu'"):
        known_activation("geluu")


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("with_residual", [False, True])
def test_all_four_against_the_reference(activation: str | None, with_residual: bool) -> None:
    x, residual = drawn(4, 6, 5), drawn(4, 6, 5, seed=1) if with_residual else None
    weight, bias = drawn(6, seed=2), drawn(6, seed=3)
    row_weight, row_bias = drawn(5, seed=4), drawn(5, seed=5)
    after = {"activation": activation, "residual": residual}
    pairs = [
        (
            calls.batch_norm(
                x, None, None, weight, bias, training=True, momentum=0.1, eps=0.01, **after
            ),
            reference.batch_norm(x, weight, bias, 0.01)[0],
        ),
        (
            calls.layer_norm(x, (5,), row_weight, row_bias, eps=0.01, **after),
            reference.layer_norm(x, 1, row_weight, row_bias, 0.01)[0],
        ),
        (
            calls.group_norm(x, 3, weight, bias, eps=0.01, **after),
            reference.group_norm(x, 3, weight, bias, 0.01),
        ),
        (
            calls.rms_norm(x, (5,), row_weight, eps=0.01, **after),
            reference.rms_norm(x, 1, row_weight, 0.01),
        ),
    ]
    for actual, normalized in pairs:
        expected = normalized if residual is None else normalized + residual
        expected = expected if activation is None else WRITTEN_OUT[activation](expected)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_batch_norm_in_evaluation_reads_the_statistics_and_leaves_them() -> None:
    x, mean, var = drawn(4, 6), drawn(6, seed=1), drawn(6, seed=2).square()
    before = mean.clone(), var.clone()
    y = calls.batch_norm(x, mean, var, None, None, training=False, momentum=0.1, eps=0.01)
    expected = reference.batch_norm_inference(x, mean, var, eps=0.01)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(mean, before[0])
    assert torch.equal(var, before[1])


def test_batch_norm_in_training_moves_the_statistics_by_momentum() -> None:
    x = drawn(8, 6, 3)
    mean, var = drawn(6, seed=1), drawn(6, seed=2).square()
    expected_mean = 0.75 * mean + 0.25 * x.mean((0, 2))
    expected_var = 0.75 * var + 0.25 * x.var((0, 2), correction=1)  # unbiased, as torch keeps it
    calls.batch_norm(x, mean, var, None, None, training=True, momentum=0.25, eps=1e-5)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(var, expected_var, rtol=1e-12, atol=1e-12)


def test_rms_norm_without_eps_uses_the_machine_epsilon_of_the_arithmetic() -> None:
    x = drawn(3, 5) * 1e-8  # mean(x²) ~ 1e-15: of the order of float64's epsilon
    y = calls.rms_norm(x, (5,), None, eps=None)
    expected = reference.rms_norm(x, 1, eps=torch.finfo(torch.float64).eps)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    # bfloat16 is computed in float32, and so is its epsilon; outputs round to 2⁻⁹ relative.
    x = (drawn(3, 5) * 1e-4).bfloat16()
    y = calls.rms_norm(x, (5,), None, eps=None)
    expected = reference.rms_norm(x.double(), 1, eps=torch.finfo(torch.float32).eps)
    torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=0)


def test_layers_go_through_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that is put first is asked first, by every layer."""
    asked = []

    class Backend:
        @staticmethod
        def forward(call: ops.Call) -> Tensor:
            asked.append(call.kind)
            return call.x

    monkeypatch.setattr(registry, "ORDER", (Backend, *registry.ORDER))
    x = torch.randn(3, 4)
    with ops.use("torch"):
        for layer in (gb.BatchNorm1d(4), gb.LayerNorm(4), gb.GroupNorm(2, 4), gb.RMSNorm(4)):
            assert layer(x) is x
    assert asked == ["batch", "layer", "group", "rms"]
