"""The native kernels against float64, where numbers are unkind; for each instruction set."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import gammabeta as gb
from gammabeta.ops import use
from tests.ops.oracle import ACTIVATIONS, Problem, channels_last, drawn, problem

pytestmark = [pytest.mark.native, pytest.mark.usefixtures("native")]

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
SHAPES = [(6, 5, 4, 4), (2, 3, 40, 60), (64, 33), (300, 7), (3, 20, 9)]
LAYOUTS = {"planes": lambda x: x.contiguous(), "rows": channels_last}
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d)[6:])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)

NAN_SLOPES = ("relu6", "hardswish")
"""Torch's scalars and vectors differ in their slopes at NaN: 1, and 0 or NaN."""

REGIMES = {
    "plain": lambda x: 3 + 2 * x,
    "mean of a million deviations": lambda x: 1e6 + x,
    "mean of a thousand millionths": lambda x: 1e-3 * (1000 + x),
    "first values far from the rest": lambda x: torch.cat((x[:1] + 1e4, x[1:])),
    "one value far from the rest": lambda x: x.index_fill(0, torch.tensor([x.shape[0] - 1]), 1e5),
    "zero": lambda x: 0 * x,
    "constant": lambda x: 0 * x + 0.1,
    "large constant": lambda x: 0 * x + 54321.7,
    "constant but for one": lambda x: torch.cat((x[:1], 0 * x[1:] + 7.3)),
    "subnormal": lambda x: 1e-40 * x,
    "tiny": lambda x: 1e-20 * x,
    "large": lambda x: 1e10 * x,
    "huge": lambda x: 1e30 * x,
    "of all sizes": lambda x: x * 10 ** (4 * drawn(*x.shape, seed=5).double().clamp(-2, 2)),
}


@layouts
@shapes
@pytest.mark.parametrize("regime", REGIMES)
def test_unkind_numbers(regime: str, shape: tuple[int, ...], layout) -> None:
    for dtype in DTYPES:  # thousands of tests of a millisecond cost more to begin than to run
        x = REGIMES[regime](drawn(*shape, dtype=torch.float64))
        x = (x.clamp(-6e4, 6e4) if dtype is torch.float16 else x).to(dtype)
        problem(layout(x)).check()


@layouts
@pytest.mark.parametrize("eps", [1e-5, 1e-12, 1e-29, 1e-40, 1e-300], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-8, 1e-16, 1e-30], ids=str)
def test_small_eps(size: float, eps: float, layout) -> None:
    x = layout((size * drawn(32, 5, 3, dtype=torch.float64)).float())
    got = problem(x, eps=eps)
    if size * size + eps > 1e-30:
        got.check()
    else:  # 1/σ is a number of float32 still, but nothing can be said of 1/σ² in torch's operators
        y, _ = got.exact()
        torch.testing.assert_close(got.solve()["y"].double(), y["y"], rtol=1e-5, atol=1e-5)


@layouts
def test_half_precision_near_its_end(layout) -> None:
    """Squares and sums of 60000 overflow float16, and its outputs nowhere do."""
    x = layout((drawn(40, 3, 5, dtype=torch.float64).sign() * 6e4).half())
    problem(x).check()
    big = problem(x)
    big.weight = big.weight * 0 + 1e5  # now they have to: ±∞, as torch's
    got = big.solve()["y"]
    with use("torch"):
        assert torch.equal(got, big.solve()["y"])
    assert got.isinf().all()


@dtypes
@layouts
def test_two_values_a_channel(dtype: torch.dtype, layout) -> None:
    # γ/σ · (d − mean d − x̂ mean(d x̂)) is 0 but for ε then: all of it is cancellation.
    problem(layout(drawn(2, 7).to(dtype))).check()
    problem(layout(drawn(1, 7, 2).to(dtype))).check()


@layouts
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [False, True])
def test_what_is_not_finite(bad: float, layout, training: bool, activation, residual: bool) -> None:
    """NaN and infinities where torch has them, and the same numbers elsewhere."""
    x = drawn(8, 19, 6)
    x[3, 4, 5] = bad
    running = None if training else (drawn(19, seed=7), drawn(19, seed=8).square() + 0.5)
    p = problem(layout(x), residual=residual, activation=activation, running=running)
    got = p.solve()
    with use("torch"):
        expected = p.solve()
    for name, value in got.items():
        other = expected[name]
        if activation == "gelu" and bad == float("inf") and name in ("y", "x", "weight"):
            # Torch disagrees with itself: NaN in its vectors, ∞ in its scalars. Ours is ∞.
            other = torch.where(other.isnan() | value.isinf(), value, other)
            assert not (other.isnan() & ~expected[name].isnan()).any()
        if activation in NAN_SLOPES and name in ("x", "bias", "residual"):
            # Where z is NaN: in training a whole channel.
            at = (4,) if name == "bias" else (slice(None), 4) if training else (3, 4, 5)
            other[at] = value[at] if bad != bad or training else other[at]
        torch.testing.assert_close(value, other, equal_nan=True, rtol=1e-5, atol=2e-5)


@layouts
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_guard_refuses_and_counts(bad: float, layout) -> None:
    layer = gb.BatchNorm1d(19)
    good, x = drawn(2, 8, 19, 6).unbind()
    x[3, 4, 5] = bad
    layer(layout(good))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with pytest.warns(gb.NonFiniteBatchWarning, match="not finite"):
        layer(layout(x))
    layer(layout(x))
    assert layer.refused_batches == 2
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())
    layer.on_nonfinite = "raise"
    with pytest.raises(gb.NonFiniteBatchError):
        layer(layout(x))
    layer.on_nonfinite = "accept"
    layer(layout(x))
    assert not layer.running_mean.isfinite().all()
    assert int(layer.num_batches_tracked) == 2


@layouts
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(5, 21, 7), (40, 9)], ids=str)
def test_every_tail_in_float64(layout, activation, training: bool, shape: tuple[int, ...]) -> None:
    running = (
        None if training else (drawn(shape[1], seed=7), drawn(shape[1], seed=8).square() + 0.5)
    )
    running = None if running is None else tuple(t.double() for t in running)
    x = layout(drawn(*shape, dtype=torch.float64))
    for affine, residual in itertools.product((True, False), (False, True)):
        options = {"activation": activation, "residual": residual, "running": running}
        problem(x, affine=affine, **options).check()
        # And in float32 and bfloat16: no z here is so near 0 that a ReLU's side is in doubt.
        for dtype in (torch.float32, torch.bfloat16):
            given = tuple(t.float() for t in running) if running else None
            p = problem(x.to(dtype), affine=affine, **{**options, "running": given})
            p.check(roundings=32 if activation else 16)


def far(got: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    return {k: float((got[k].double() - expected[k]).abs().max()) for k in got}


@layouts
@pytest.mark.parametrize("mean", [0.0, 3.0, 1000.0])
@shapes
def test_never_further_from_the_truth_than_torch(shape, mean: float, layout) -> None:
    """Than torch on contiguous input, its best layout: by no more than the noise of two roundings.

    Both err by a few u. Where it is a matter of luck whose largest error is larger, the native one
    is allowed twice torch's, or 4 u of the largest value; with a mean of 1000 σ torch's rounding of
    the mean leaves it hundreds of u away, and the native kernels may not follow.
    """
    x = drawn(*shape) + mean
    expected, sizes = problem(x).exact()
    native = far(problem(layout(x)).solve(), expected)
    with use("torch"):
        theirs = far(problem(x).solve(), expected)
    for name, error in native.items():
        few = 4 * 2**-24 * float(sizes[name].max())
        allowed = few if mean == 1000 and name == "y" else max(2 * theirs[name], few)
        assert error <= allowed, f"{name}: {error} > {allowed}; torch's: {theirs[name]}"


def test_an_image_batch_in_channels_last(native: str) -> None:
    # Torch's own kernel of this layout is 2e-4 off at times: it adds 400 000 squares in float32.
    # As many values a channel as there; of 64 channels, 24: a vector and a half at the widest.
    x = drawn(32, 24, 112, 112).contiguous(memory_format=torch.channels_last)
    got = Problem(x, x, torch.ones(24), torch.zeros(24)).solve()["y"]
    x64 = x.double()
    expected = (x64 - x64.mean((0, 2, 3), keepdim=True)) / (
        x64.var((0, 2, 3), correction=0, keepdim=True) + 1e-5
    ).sqrt()
    # |y| <= 5.5: its last rounding alone is 2.4e-7 there.
    assert float((got.double() - expected).abs().max()) <= 2e-6


@dtypes
@layouts
@pytest.mark.parametrize("residual", [False, True])
def test_a_relu_at_exactly_zero_passes_no_gradient(residual: bool, dtype, layout) -> None:
    x = layout(torch.full((4, 5, 6), 0.75, dtype=dtype))  # a constant channel, and β is 0
    p = problem(x, residual=residual, activation="relu")
    p.bias, p.residual = p.bias * 0, p.residual * 0 if residual else None
    got = p.solve()
    # z is 0 to the bit (torch's own is not: its mean · γ/σ is rounded); ReLU's slope there is 0.
    assert all(int(value.count_nonzero()) == 0 for value in got.values())


def elementwise(z: Tensor, activation: str, layout, residual: bool) -> Problem:
    """A batch norm in evaluation that is the identity, to the bit, before its activation."""
    running = torch.zeros(z.shape[1]), torch.full((z.shape[1],), 0.75)
    zeros = torch.zeros_like(z) if residual else None
    running = tuple(t.to(z.dtype) for t in running)
    x, one = layout(z), layout(torch.ones_like(z))
    rest = None if zeros is None else layout(zeros)
    return Problem(x, one, None, None, rest, activation, eps=0.25, running=running)


@layouts
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=lambda d: str(d)[6:])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a])
def test_activations_are_right_to_a_few_ulp(activation: str, residual: bool, dtype, layout) -> None:
    """However far out, where most of them are tiny: relative to each value."""
    z = torch.cat([torch.linspace(-12, 12, 3001), -torch.logspace(-30, 1.2, 999, base=10)])
    z = z.to(dtype).view(40, 10, 10)
    p = elementwise(z, activation, layout, residual)
    got, u = p.solve(), torch.finfo(dtype).eps / 2
    exact = p.x.double().requires_grad_()
    # Near 0 the formula of tanh that is written out cancels.
    y = torch.tanh(exact) if activation == "tanh" else ACTIVATIONS[activation](exact)
    (slope,) = torch.autograd.grad(y.sum(), exact)
    # An ulp is 1 to 2 u of a number: 4 ulp in float32. In float64 the oracle's exponents, up to
    # 190, are rounded like the kernels'.
    times = 8 if dtype is torch.float32 else 600
    error = (got["y"].double() - y).abs()
    assert (error <= times * u * y.abs() + torch.finfo(dtype).tiny * u).all(), error.max()
    # Slopes pass through 0, and their terms do not.
    torch.testing.assert_close(got["x"].double(), slope, rtol=8 * u, atol=8 * u)
    if residual:
        assert torch.equal(got["residual"], got["x"])


@dtypes
@layouts
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a not in (None, "gelu")])
def test_kinks_and_far_out_as_torch(activation: str, residual: bool, dtype, layout) -> None:
    largest, step = torch.finfo(dtype).max, torch.finfo(dtype).eps
    numbers = [0.0, -0.0, *(k * (1 + s * step) for k in (-3, 3, 6) for s in (-0.5, 0, 1))]
    numbers += [-largest / 8, largest / 8, float("inf"), float("-inf"), 1e4, -1e4]
    z = torch.tensor(numbers, dtype=torch.float64).to(dtype).repeat(4, 3, 1)
    p = elementwise(z, activation, layout, residual)
    got = p.solve()
    with use("torch"):
        expected = p.solve()
    for name, value in got.items():
        other = expected[name]
        if activation == "gelu_tanh":  # torch's derivative overflows
            other = torch.where(other.isnan() & p.x.isfinite(), value, other)
        # To torch, the slope of Hardsigmoid is the float32 nearest to 1/6.
        few = max(4 * step, 2**-23 if activation == "hardsigmoid" else 0)
        torch.testing.assert_close(value, other, equal_nan=True, rtol=few, atol=few / 2)
    x = p.x[0, 0]
    flat = {"relu": x <= 0, "relu6": (x <= 0) | (x >= 6), "hardsigmoid": x.abs() >= 3}
    if activation in flat:
        assert torch.equal(got["x"][0, 0] == 0, flat[activation])
