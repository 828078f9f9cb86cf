"""Hypothesis: shapes, layouts, dtypes and extreme values against the formulas in float64.

The tolerance is the problem's condition, not a guess. Normalizing x subtracts a mean and divides
by s = √(σ² + ε): one rounding of x or of the mean, u · max|x|, becomes u · max|x| / s in x̂. With a
mean of 10⁶ σ that is 0.06 in float32 for any algorithm that keeps the mean in float32, as torch's
does. So the bound is 8 u (1 + κ), κ = max|x| / s over the values of one statistic; 8 roundings: the
mean, the deviation, the variance, its root, γ, β, and two of a folded x · (γ/s) + (β − μ γ/s).
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

import gammabeta as gb
from gammabeta.ops.reference import torch_norms as reference

SETTINGS = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,  # the same cases on every machine; a failure is never a matter of luck
    suppress_health_check=[HealthCheck.too_slow],
)
DTYPES = st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])
REGIMES = st.sampled_from(
    ["plain", "shifted", "far", "constant", "zero", "denormal", "tiny", "huge", "mixed"]
)
LAYOUTS = st.sampled_from(["contiguous", "channels_last", "transposed", "sliced", "flipped"])


@st.composite
def inputs(draw, min_spatial=0, min_positions=1):
    """An input of 2 to 5 dims in some layout, in a regime of values drawn a channel."""
    n, c = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    space = draw(st.lists(st.integers(1, 4), min_size=min_spatial, max_size=3))
    while torch.Size(space).numel() < min_positions:
        space[draw(st.integers(0, len(space) - 1))] += 1
    shape = (n, c, *space)
    if n * torch.Size(space).numel() < 2:
        shape = (2, c, *space)
    dtype, regime = draw(DTYPES), draw(REGIMES)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    half = dtype is torch.float16
    each = (1, c) + (1,) * len(space)
    sign = torch.randn(each, generator=generator, dtype=torch.float64).sign()
    scale = torch.rand(each, generator=generator, dtype=torch.float64)
    x = {
        "plain": x,
        "shifted": x + 30 * sign,
        "far": x * 0.01 + (50.0 if half else 1e4) * sign,  # the mean is 10⁶ σ (float16: 5000 σ)
        "constant": 0 * x + 1000 * scale,
        "zero": 0 * x,
        "denormal": x * (1e-7 if half else 1e-40),
        "tiny": x * (1e-4 if half else 1e-18),
        # The variance of 5e17 is 2e35, and a sum of 320 squares still fits in float32.
        "huge": x * (5e3 if half else 5e17),
        "mixed": x * 10 ** (8 * scale - 4 if not half else 4 * scale - 2),
    }[regime].to(dtype)
    layout = draw(LAYOUTS)
    if layout == "channels_last" and x.dim() > 2:
        x = x.movedim(1, -1).contiguous().movedim(-1, 1)
    elif layout == "transposed":
        x = x.transpose(0, 1).contiguous().transpose(0, 1)
    elif layout == "sliced":
        x = torch.stack((x, torch.full_like(x, float("nan"))), -1)[..., 0]
    elif layout == "flipped":
        x = torch.cat((x, x), -1)[..., : x.shape[-1]]
    return x


def unit(dtype):
    """Half the spacing at 1 of what is computed in: half inputs are computed in float32."""
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    return torch.finfo(wide).eps / 2


def check(got, expected, x, dims, eps, weight=2.0, mean_square=False, squares=False):
    """Hold ``got`` to 8 u (1 + κ) of ``expected``, and to the rounding of its own dtype."""
    x64 = x.double()
    spread = (
        x64.square().mean(dims, keepdim=True)
        if mean_square
        else x64.var(dims, correction=0, keepdim=True)
    )
    kappa = x64.abs().amax(dims, keepdim=True) / (spread + eps).sqrt()
    bound = 8 * unit(x.dtype) * weight * (1 + (kappa**2 if squares else kappa))
    bound = bound + torch.finfo(got.dtype).eps * (1 + expected.abs())
    wrong = (got.double() - expected).abs() > bound
    assert got.shape == expected.shape
    assert not wrong.any(), f"{(got.double() - expected).abs().max()} > {bound.max()}"


def random_parameters(layer):
    for p in layer.parameters():
        torch.nn.init.uniform_(p, 0.5, 2.0)
    return layer


def parameter_dtype(x):
    """float32 parameters under half inputs, as under autocast; else the input's own."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def doubled(layer):
    return [None if p is None else p.detach().double() for p in (layer.weight, layer.bias)]


@SETTINGS
@given(inputs())
def test_batch_norm(x):
    cls = {2: gb.BatchNorm1d, 3: gb.BatchNorm1d, 4: gb.BatchNorm2d, 5: gb.BatchNorm3d}[x.dim()]
    layer = random_parameters(cls(x.shape[1], momentum=1.0, dtype=parameter_dtype(x)))
    dims = (0, *range(2, x.dim()))
    y = layer(x)
    expected, _ = reference.batch_norm(x.double(), *doubled(layer))
    assert y.dtype is x.dtype
    check(y, expected, x, dims, 1e-5)
    # momentum = 1: the running statistics are the batch's.
    u, x64 = unit(x.dtype), x.double()
    largest = x64.abs().amax(dims)
    assert ((layer.running_mean - x64.mean(dims)).abs() <= 8 * u * largest + 1e-37).all()
    var = x64.var(dims, correction=1)
    # Σ (x − μ)² around a rounded mean is off by the square of the rounding, and each deviation by
    # one rounding of x.
    bound = 8 * u * var + (8 * u * largest) ** 2 * 4 + 8 * u * largest * var.sqrt() + 1e-37
    assert ((layer.running_var - var).abs() <= bound).all()
    assert layer.refused_batches == 0
    evaluated = layer.eval()(x)
    fixed = reference.batch_norm_inference(
        x64, layer.running_mean.double(), layer.running_var.double(), *doubled(layer)
    )
    s = (layer.running_var.double() + 1e-5).sqrt()
    kappa = (largest / s).reshape(1, -1, *(1,) * (x.dim() - 2))
    bound = 16 * u * (1 + kappa) + torch.finfo(x.dtype).eps * (1 + fixed.abs())
    assert ((evaluated.double() - fixed).abs() <= bound).all()


@SETTINGS
@given(inputs(min_spatial=1, min_positions=2))
def test_instance_norm(x):
    cls = {3: gb.InstanceNorm1d, 4: gb.InstanceNorm2d, 5: gb.InstanceNorm3d}[x.dim()]
    layer = random_parameters(cls(x.shape[1], affine=True, dtype=parameter_dtype(x)))
    expected = reference.instance_norm(x.double(), *doubled(layer))
    check(layer(x), expected, x, tuple(range(2, x.dim())), 1e-5)


@SETTINGS
@given(inputs(), st.data())
def test_group_norm(x, data):
    c = x.shape[1]
    groups = data.draw(st.sampled_from([g for g in range(1, c + 1) if c % g == 0]))
    if x[0].numel() // groups < 2:  # one value a group: torch refuses
        groups = 1
        if x[0].numel() < 2:
            return
    layer = random_parameters(gb.GroupNorm(groups, c, dtype=parameter_dtype(x)))
    expected = reference.group_norm(x.double(), groups, *doubled(layer))
    rows = x.reshape(x.shape[0], groups, -1)
    # torch's channels_last kernel takes E[x²] − E[x]², which is worse by κ: 8 u (1 + κ²).
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    squares = x.dim() in layouts and x.is_contiguous(memory_format=layouts[x.dim()])
    y = layer(x).reshape(rows.shape)
    check(y, expected.reshape(rows.shape), rows, (2,), 1e-5, squares=squares)


@SETTINGS
@given(inputs(), st.data())
def test_layer_norm(x, data):
    last = data.draw(st.integers(1, x.dim()))
    layer = random_parameters(gb.LayerNorm(x.shape[-last:], dtype=parameter_dtype(x)))
    expected, _ = reference.layer_norm(x.double(), last, *doubled(layer))
    check(layer(x), expected, x, tuple(range(-last, 0)), 1e-5)


@SETTINGS
@given(inputs(), st.data())
def test_rms_norm(x, data):
    last = data.draw(st.integers(1, x.dim()))
    layer = random_parameters(gb.RMSNorm(x.shape[-last:], eps=1e-5, dtype=x.dtype))
    weight = layer.weight.detach().double()
    expected = reference.rms_norm(x.double(), last, weight, 1e-5)
    check(layer(x), expected, x, tuple(range(-last, 0)), 1e-5, mean_square=True)


@SETTINGS
@given(inputs())
def test_batch_norm_backward(x):
    # Gradients where they are well conditioned: a constant channel has 1/√ε = 316 in front.
    x = x.double() if x.double().abs().max() < 1e3 else x.double() / x.double().abs().max()
    x = x.detach().requires_grad_()
    cls = {2: gb.BatchNorm1d, 3: gb.BatchNorm1d, 4: gb.BatchNorm2d, 5: gb.BatchNorm3d}[x.dim()]
    layer = random_parameters(cls(x.shape[1], dtype=torch.float64))
    y = layer(x)
    grad = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape)
    y.backward(grad)
    _, saved = reference.batch_norm(x.detach(), *doubled(layer))
    expected = reference.batch_norm_backward(grad, saved)
    got = (x.grad, layer.weight.grad, layer.bias.grad)
    # The paper's order of the terms cancels (x − μ) · ∂ℓ/∂σ² sums; κ ≤ 10³ · 316 and three factors
    # of s⁻¹ leave 1e-8 of float64's 1e-16. Σ g x̂ has up to 320 terms, each off by κ u = 3.5e-11
    # or some of them: 1.1e-8 apiece.
    assert_close(got, expected, rtol=1e-8, atol=5e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_channel_gives_beta(dtype):
    layer = gb.BatchNorm1d(2, dtype=dtype)
    torch.nn.init.constant_(layer.bias, 0.25)
    x = torch.full((16, 2), 3.0, dtype=dtype, requires_grad=True)  # 16 · 3 is exact
    y = layer(x)
    # x · γ/√ε and μ · γ/√ε are 949 each: one rounding of them remains.
    assert_close(y, torch.full_like(y, 0.25), rtol=0, atol=2e3 * torch.finfo(dtype).eps)
    y.sum().backward()
    assert_close(
        x.grad, torch.zeros_like(x), rtol=0, atol=1e-3 if dtype is torch.float32 else 1e-12
    )
