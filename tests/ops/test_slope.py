"""A leaky ReLU of any negative slope: whatever computes a call uses the slope of the call."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta import ops
from gammabeta.ops import operators
from tests.ops.oracle import channels_last, drawn

SLOPES = (0.2, 0.0, -0.3, 1.5)
NORMS: dict[str, dict[str, Any]] = {
    "batch": {},
    "batch, evaluation": {"training": False},
    "instance": {},
    "group": {"num_groups": 2},
    "layer": {"normalized_shape": (40,)},
    "rms": {"normalized_shape": (40,)},
}


def made(name: str, slope: float, residual: bool, layout=torch.Tensor.contiguous) -> ops.Call:
    """A call whose tensors want gradients; large enough for the kernels."""
    kind, settings = name.split(",")[0], dict(NORMS[name])
    x = layout(drawn(6, 4, 30, 40, dtype=torch.float64)).requires_grad_()
    extra = layout(drawn(6, 4, 30, 40, seed=1, dtype=torch.float64)).requires_grad_()
    size = settings.get("normalized_shape", (4,))
    weight = drawn(*size, seed=2, dtype=torch.float64).requires_grad_()
    if not settings.get("training", True):
        settings["running_mean"] = drawn(4, seed=3, dtype=torch.float64)
        settings["running_var"] = drawn(4, seed=4, dtype=torch.float64).square() + 0.5
    call = ops.Call(kind, x, weight, slope=slope, **settings)
    call.activation, call.residual = "leaky_relu", extra if residual else None
    return call


def expected(call: ops.Call) -> Tensor:
    """By torch, one operator after the other."""
    plain = ops.Call(call.kind, call.x, call.weight)
    for name in ("training", "normalized_shape", "num_groups", "running_mean", "running_var"):
        setattr(plain, name, getattr(call, name))
    with ops.use("torch"):
        y = ops.normalize(plain)
    return F.leaky_relu(y if call.residual is None else y + call.residual, call.slope)


def leaves(call: ops.Call) -> list[Tensor]:
    return [t for t in (call.x, call.weight, call.residual) if t is not None]


def gradient() -> Tensor:
    return drawn(6, 4, 30, 40, seed=5, dtype=torch.float64)


def agree(call: ops.Call, y: Tensor, g: Tensor) -> None:
    got, want = torch.autograd.grad(y, leaves(call), g), expected(call)
    wanted = torch.autograd.grad(want, leaves(call), g)
    # float64, and sums of up to 7200 terms.
    torch.testing.assert_close(y, want, rtol=1e-11, atol=1e-11)
    for one, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize(
    ("name", "slope", "residual"), list(itertools.product(NORMS, SLOPES, [False, True]))
)
def test_every_norm_uses_it(name: str, slope: float, residual: bool, layout) -> None:
    call, g = made(name, slope, residual, layout), gradient()
    agree(call, ops.normalize(call), g)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("residual", [False, True])
def test_second_derivatives_use_it(residual: bool) -> None:
    def second(y: Tensor, call: ops.Call) -> tuple[Tensor, ...]:
        (gx,) = torch.autograd.grad(y.square().sum(), call.x, create_graph=True)
        return torch.autograd.grad(gx.sin().sum(), leaves(call))

    call = made("batch", 0.2, residual)
    got = second(ops.normalize(call), call)
    for one, other in zip(got, second(expected(call), call), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("residual", [False, True])
def test_the_registered_operator_uses_it(residual: bool) -> None:
    call = made("batch", 0.2, residual)
    agree(call, operators.normalize(call)[0], gradient())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("residual", [False, True])
def test_phases_use_it(residual: bool) -> None:
    call, g = made("batch", 0.2, residual), gradient()
    with torch.no_grad():
        statistics = ops.statistics(call)
        y = ops.apply(call, statistics)
        got = ops.backward(call, statistics, g)
    want = expected(call)
    torch.testing.assert_close(y, want, rtol=1e-11, atol=1e-11)
    wanted = torch.autograd.grad(want, leaves(call), g)
    found = [t for t in (got.x, got.weight, got.residual) if t is not None]
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_a_lean_output_is_made_again_with_it() -> None:
    call = made("batch", 0.2, residual=False)
    call.memory, call.momentum = "lean", 0.1
    y = ops.normalize(call)
    (got,) = torch.autograd.grad((y * y).sum(), call.x)
    want = expected(call)
    (wanted,) = torch.autograd.grad((want * want).sum(), call.x)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


def test_the_reference_uses_it() -> None:
    call = made("batch", 0.2, residual=True)
    torch.testing.assert_close(ops.BACKENDS["reference"].forward(call), expected(call))
