"""A leaky ReLU whose slope is learned: a PReLU's, one for all channels or one each."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta import ops
from gammabeta.ops import cpu
from gammabeta.ops.cpu import library
from tests.ops.oracle import channels_last, drawn

NORMS: dict[str, dict[str, Any]] = {
    "batch": {},
    "batch, evaluation": {"training": False},
    "instance": {},
    "instance, evaluation": {"training": False},
    "group": {"num_groups": 2},
    "layer": {"normalized_shape": (9,)},
    "rms": {"normalized_shape": (9,)},
}
# Long planes and short ones (which the kernels take as rows); channels that are and are not whole
# vectors; enough channels for each thread, and too few.
SHAPES = [(4, 16, 13, 9), (9, 40, 3, 9), (2, 6, 200, 9), (3, 134, 1, 9)]
ROUNDING = {torch.float64: 2**-52, torch.float32: 2**-23, torch.bfloat16: 2**-7}


def made(name: str, shape: tuple[int, ...], slopes: int, residual: bool, dtype, layout) -> ops.Call:
    kind, settings = name.split(",")[0], dict(NORMS[name])
    x = layout(drawn(*shape, dtype=dtype)).requires_grad_()
    extra = layout(drawn(*shape, seed=1, dtype=dtype)).requires_grad_() if residual else None
    size = settings.get("normalized_shape", (shape[1],))
    weight = drawn(*size, seed=2, dtype=dtype).requires_grad_()
    if not settings.get("training", True):
        settings["running_mean"] = drawn(shape[1], seed=3, dtype=dtype)
        settings["running_var"] = drawn(shape[1], seed=4, dtype=dtype).square() + 0.5
    slope = drawn(slopes, seed=6, dtype=dtype).requires_grad_()
    return ops.Call(kind, x, weight, None, 1e-5, "leaky_relu", extra, slope=slope, **settings)


def leaves(call: ops.Call) -> list[Tensor]:
    return [t for t in (call.x, call.weight, call.residual, call.slope) if t is not None]


def in_float64(call: ops.Call) -> tuple[Tensor, list[Tensor]]:
    """The output by torch's operators, one after the other, and what it depends on."""
    settings = {"training": call.training, "num_groups": call.num_groups}
    for name in ("running_mean", "running_var"):
        value = getattr(call, name)
        settings[name] = None if value is None else value.double()
    settings["normalized_shape"] = call.normalized_shape
    copies = [t.detach().double().requires_grad_() for t in leaves(call)]
    plain = ops.Call(call.kind, copies[0], copies[1], **settings)
    with library.use("torch"):
        y = ops.normalize(plain)
    return F.prelu(y if call.residual is None else y + copies[2], copies[-1]), copies


def differ(one: Tensor, other: Tensor) -> float:
    one, other = one.detach().double(), other.detach()
    return float((one - other).norm() / other.norm())


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("layout", [torch.Tensor.contiguous, channels_last])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", NORMS)
def test_output_and_gradients_are_those_of_float64(name: str, dtype, layout) -> None:
    for i, (shape, each) in enumerate(itertools.product(SHAPES, (False, True))):
        if "instance" in name and shape[2] == 1:
            continue  # nine values a channel, and gradients that are nearly 0
        residual = i % 4 in (1, 2)  # each with one slope and with many
        call = made(name, shape, shape[1] if each else 1, residual, dtype, layout)
        g = layout(drawn(*shape, seed=5, dtype=dtype))
        y = ops.normalize(call)
        want, inputs = in_float64(call)
        # Norms of whole tensors: some rounding errors of each term, which have both signs. Where z
        # is near 0 its sign may be wrong, and with it a slope of g: a share u, whose root counts.
        tolerance = 8 * ROUNDING[dtype] ** (1 if dtype is torch.float64 else 0.75)
        assert differ(y, want) < tolerance
        found = torch.autograd.grad(y, leaves(call), g)
        wanted = torch.autograd.grad(want, inputs, g.double(), retain_graph=True)
        # The terms of the slope's sum, g·z with z < 0, cancel: without their signs they do not.
        (size,) = torch.autograd.grad(want, inputs[-1], -g.double().abs())
        for got, expected in zip(found[:-1], wanted[:-1], strict=True):
            assert got.shape == expected.shape
            assert differ(got, expected) < 4 * tolerance, (shape, each, expected.shape)
        assert found[-1].shape == wanted[-1].shape
        assert (found[-1].detach().double() - wanted[-1]).norm() <= tolerance * size.norm().item()


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("name", ["batch", "instance", "group"])
def test_the_kernels_compute_it(name: str, each: bool) -> None:
    if not library.chosen:
        pytest.skip("there are no kernels here")
    call = made(name, (4, 16, 13, 9), 16 if each else 1, True, torch.float32, torch.clone)
    assert cpu.plan(call) is not None
    assert "_Norm" in type(ops.normalize(call).grad_fn).__name__


def test_what_they_do_not_take_is_torchs() -> None:
    # A layer norm's rows know no channels; a slope of another type than γ's is torch's error.
    call = made("layer", (4, 16, 13, 9), 16, False, torch.float32, torch.clone)
    assert cpu.plan(call) is None
    call = made("batch", (4, 16, 13, 9), 16, False, torch.float32, torch.clone)
    call.slope = call.slope.detach().double()
    with pytest.raises(RuntimeError, match="Double"):
        ops.normalize(call)


def test_where_z_is_zero_or_nan_it_is_torchs() -> None:
    x = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64).repeat(4, 1)
    for value in (0.0, float("nan")):
        x[0, 0] = value
        slope = torch.tensor([0.25, -2.0], dtype=torch.float64, requires_grad=True)
        z = x.clone().requires_grad_()
        mean, var = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        settings = {"running_mean": mean, "running_var": var, "training": False, "slope": slope}
        call = ops.Call("batch", z, None, None, 1e-300, "leaky_relu", **settings)
        y, want = ops.normalize(call), F.prelu(z, slope)
        torch.testing.assert_close(y, want, rtol=1e-15, atol=0, equal_nan=True)
        for one, other in zip(
            torch.autograd.grad(y.sum(), (z, slope)),
            torch.autograd.grad(want.sum(), (z, slope)),
            strict=True,
        ):
            torch.testing.assert_close(one, other, rtol=1e-15, atol=0, equal_nan=True)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("each", [False, True])
def test_second_derivatives(each: bool) -> None:
    call = made("batch", (4, 6, 5, 9), 6 if each else 1, True, torch.float64, torch.clone)

    def second(y: Tensor, inputs: list[Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
        return torch.autograd.grad(sum(t.sin().sum() for t in first), inputs)

    want, inputs = in_float64(call)
    found = second(ops.normalize(call), leaves(call))
    for one, other in zip(found, second(want, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_a_slope_changed_before_backward_is_an_error() -> None:
    call = made("batch", (4, 16, 13, 9), 16, False, torch.float32, torch.clone)
    y = ops.normalize(call)
    with torch.no_grad():
        call.slope.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
