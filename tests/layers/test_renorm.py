"""Batch renormalization against Algorithm 1 of its paper, its limits, and batch norm's habits."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gammabeta.layers import BatchRenorm1d, BatchRenorm2d, BatchRenorm3d, NonFiniteBatchWarning
from gammabeta.ops.reference import other_norms
from gammabeta.ops.reference import torch_norms as reference
from tests.layers.agreement import agree

# Float64 against float64: a few hundred values a sum, so some 1e-14 relative to values of order
# 1; the square root and the square of σ in running_var cost another digit.
EXACT = {"rtol": 1e-11, "atol": 1e-12}

RELAXED = {"warmup_steps": 0, "r_steps": 0, "d_steps": 0}
CASES = [
    (BatchRenorm1d, nn.BatchNorm1d, (6, 3)),
    (BatchRenorm1d, nn.BatchNorm1d, (4, 3, 5)),
    (BatchRenorm2d, nn.BatchNorm2d, (3, 3, 4, 5)),
    (BatchRenorm3d, nn.BatchNorm3d, (2, 3, 2, 3, 4)),
]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def snapshot(layer: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in layer.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(("cls", "_", "shape"), CASES)
def test_follows_algorithm_1_over_several_batches(cls, _, shape):
    layer = cls(3, momentum=0.3, r_max=1.5, d_max=0.7, dtype=torch.float64, **RELAXED)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        layer.bias.copy_(torch.tensor([1.0, 0.0, -3.0]))
    mean = torch.zeros(3, dtype=torch.float64)
    std = torch.full((3,), 1 + layer.eps, dtype=torch.float64).sqrt()
    ratios, shifts = [], []
    for step in range(6):
        # Scales that go up and down, so that r and d are clipped in some batches and not in others.
        x = normal(*shape, seed=step) * (0.3 + 0.6 * step) + 0.4 * step
        expected, batch_mean, batch_std = other_norms.batch_renorm(
            x, mean, std, 1.5, 0.7, layer.weight, layer.bias, layer.eps
        )
        torch.testing.assert_close(layer(x), expected, **EXACT)
        ratios.append(batch_std / std)
        shifts.append((batch_mean - mean) / std)
        mean, std = mean + 0.3 * (batch_mean - mean), std + 0.3 * (batch_std - std)
        torch.testing.assert_close(layer.running_mean, mean, **EXACT)
        torch.testing.assert_close((layer.running_var + layer.eps).sqrt(), std, **EXACT)
    r, d = torch.stack(ratios), torch.stack(shifts)
    assert bool((r > 1.5).any())
    assert bool(((r < 1.5) & (r > 1 / 1.5)).any())
    assert bool((d.abs() > 0.7).any())
    assert bool((d.abs() < 0.7).any())
    # Evaluation divides by exactly the averaged σ.
    x = normal(*shape, seed=9)
    view = (-1, *[1] * (x.dim() - 2))
    expected = layer.weight.view(view) * (x - mean.view(view)) / std.view(view)
    torch.testing.assert_close(layer.eval()(x), expected + layer.bias.view(view), **EXACT)


@pytest.mark.parametrize(
    ("batches", "r_max", "d_max"),
    [
        (0, 1.0, 0.0),
        (4_999, 1.0, 0.0),
        (5_000, 1.0, 0.0),
        (15_000, 1 + 2 * 10 / 35, 2.5),
        (25_000, 1 + 2 * 20 / 35, 5.0),
        (40_000, 3.0, 5.0),
        (10**6, 3.0, 5.0),
    ],
)
def test_schedule_is_the_papers(batches, r_max, d_max):
    layer = BatchRenorm2d(2)
    layer.num_batches_tracked.fill_(batches)
    # Float32: 1e-6 is 8 units in the last place of 5.
    assert [float(v) for v in layer.limits()] == pytest.approx([r_max, d_max], abs=1e-6)
    assert layer.momentum == 0.01


def test_schedule_advances_with_training_only_and_restarts_with_the_statistics():
    layer = BatchRenorm1d(2, warmup_steps=1, r_steps=3, d_steps=2)
    seen = []
    for _ in range(4):
        seen.append([float(v) for v in layer.limits()])
        layer(torch.randn(4, 2))
        layer.eval()(torch.randn(4, 2))
        layer.train()
    assert seen == [[1.0, 0.0], [1.0, 0.0], [2.0, 5.0], [3.0, 5.0]]
    layer.reset_running_stats()
    assert [float(v) for v in layer.limits()] == [1.0, 0.0]


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
def test_with_r_1_and_d_0_it_is_batch_norm(cls, plain, shape):
    layer, norm = cls(3, dtype=torch.float64), plain(3, dtype=torch.float64)  # the first batches
    layer.running_mean.fill_(7)  # what it would correct towards is far away, and unused
    weight = normal(3, seed=1)
    grads = []
    for module in (layer, norm):
        with torch.no_grad():
            module.weight.copy_(weight)
        x = (normal(*shape) * 3 + 1).requires_grad_()
        y = module(x)
        y.backward(normal(*shape, seed=2))
        grads.append((y.detach(), x.grad, module.weight.grad, module.bias.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize(("cls", "_", "shape"), CASES)
def test_unclipped_training_equals_evaluation(cls, _, shape):
    layer = cls(3, r_max=1e9, d_max=1e9, dtype=torch.float64, **RELAXED)
    layer.running_mean.copy_(torch.tensor([5.0, -1.0, 0.0]))
    layer.running_var.copy_(torch.tensor([0.1, 9.0, 1.0]))
    x = normal(*shape)
    evaluated = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), evaluated, **EXACT)
    # One example's output does not depend on the others, as batch norm's would.
    layer2 = copy.deepcopy(layer)
    alone = layer.eval()(x)[:2]
    torch.testing.assert_close(layer2.train()(x[:2]), alone, **EXACT)


def test_converged_average_equals_inference_within_the_papers_bounds():
    layer = BatchRenorm2d(3, momentum=0.2, dtype=torch.float64, **RELAXED)
    x = normal(4, 3, 4, 4) * torch.tensor([0.2, 1.0, 50.0]).view(-1, 1, 1) + 20
    for _ in range(200):  # (1 − 0.2)^200 = 4e-20 of the start is left
        y = layer(x)
    torch.testing.assert_close(y, layer.eval()(x), **EXACT)
    torch.testing.assert_close(y, reference.batch_norm(x)[0], rtol=1e-9, atol=1e-9)


def test_cumulative_average():
    layer = BatchRenorm1d(2, momentum=None, dtype=torch.float64)
    batches = [normal(5, 2, seed=s) * (s + 1) + s for s in range(4)]
    for x in batches:
        layer(x)
    stds = [(x.var(0, correction=0) + layer.eps).sqrt() for x in batches]
    torch.testing.assert_close(
        layer.running_mean, torch.stack([x.mean(0) for x in batches]).mean(0), **EXACT
    )
    expected = torch.stack(stds).mean(0) ** 2 - layer.eps
    torch.testing.assert_close(layer.running_var, expected, **EXACT)


def test_gradients_treat_r_and_d_as_constants():
    layer = BatchRenorm1d(3, dtype=torch.float64, **RELAXED)
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 0.0]))
    layer.running_var.copy_(torch.tensor([0.5, 2.0, 1.0]))
    std = (layer.running_var + layer.eps).sqrt()
    mean = layer.running_mean.clone()
    x, v = normal(6, 3).requires_grad_(), normal(6, 3, seed=1)
    ours = layer(x)
    theirs = other_norms.batch_renorm(x, mean, std, 3.0, 5.0, layer.weight, layer.bias)[0]
    inputs = (x, layer.weight, layer.bias)
    first = [torch.autograd.grad(y, inputs, v, create_graph=True) for y in (ours, theirs)]
    second = [torch.autograd.grad((g[0] ** 2).sum(), (x, layer.weight)) for g in first]
    for pair in (first, second):
        for a, b in zip(*pair, strict=True):
            torch.testing.assert_close(a, b, **EXACT)
    # The gradient of evaluation would be γ/σ · v, without the terms of μ_B and σ_B.
    assert not torch.allclose(first[0][0], v / std, atol=1e-3)


@pytest.mark.parametrize("saturated", [False, True])
def test_gradcheck_where_r_and_d_are_constant(saturated):
    # Numerical differences see r and d move, unless the bounds hold them: at 1 and 0 in the first
    # steps, or at both bounds with a batch far from the averages.
    layer = BatchRenorm1d(2, momentum=0.0, dtype=torch.float64, **(RELAXED if saturated else {}))
    x = (normal(5, 2) * 30 + 500 if saturated else normal(5, 2)).requires_grad_()
    v = normal(5, 2, seed=3)

    def loss(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out = torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))
        return out * v

    inputs = (x, layer.weight, layer.bias)
    assert torch.autograd.gradcheck(loss, inputs)
    assert torch.autograd.gradgradcheck(loss, inputs)


@pytest.mark.parametrize(("cls", "plain", "shape"), CASES)
def test_is_a_batch_norm_and_exchanges_state_dicts(cls, plain, shape):
    layer, norm = cls(3), plain(3)
    assert isinstance(layer, plain)
    norm(normal(*shape, dtype=torch.float32) * 4 + 1)
    layer.load_state_dict(norm.state_dict())
    x = normal(*shape, seed=5, dtype=torch.float32)
    agree(layer.eval()(x), norm.eval()(x))
    norm.load_state_dict(layer.state_dict())
    assert same(layer.state_dict(), norm.state_dict())


def test_checkpoint_pickle_and_deepcopy_resume_the_schedule():
    layer = BatchRenorm2d(3, warmup_steps=0, r_steps=4, d_steps=4, activation="relu")
    for seed in range(3):
        layer(normal(2, 3, 4, 4, seed=seed, dtype=torch.float32))
    resumed = BatchRenorm2d(3, warmup_steps=0, r_steps=4, d_steps=4, activation="relu")
    resumed.load_state_dict(layer.state_dict())
    copies = [resumed, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    x = normal(2, 3, 4, 4, seed=7, dtype=torch.float32) + 1
    expected = layer(x)
    for twin in copies:
        assert torch.equal(twin(x), expected)
        assert same(twin.state_dict(), layer.state_dict())


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # One rounding of outputs up to 8: half a unit in the last of 8 or 11 bits.
    [(torch.bfloat16, 2**-5), (torch.float16, 2**-8)],
)
def test_half_inputs_with_float32_parameters(dtype, tolerance):
    layer = BatchRenorm2d(3, **RELAXED)
    x = (normal(4, 3, 5, 5) * 2 + 1).to(dtype)
    std = torch.full((3,), 1 + layer.eps, dtype=torch.float64).sqrt()
    expected, mean, _ = other_norms.batch_renorm(
        x.double(), torch.zeros_like(std), std, 3.0, 5.0, torch.ones_like(std), std * 0, layer.eps
    )
    y = layer(x)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), expected, rtol=0, atol=tolerance)
    assert layer.running_mean.dtype == torch.float32
    # Statistics are float32 of the half values: 1e-6 is ten units in the last place of 0.01.
    torch.testing.assert_close(layer.running_mean.double(), 0.01 * mean, rtol=0, atol=1e-6)


def test_mean_far_from_zero():
    layer = BatchRenorm1d(1, r_max=1e9, d_max=1e9, **RELAXED)
    layer.running_mean.fill_(1e6)
    x = (normal(64, 1) + 1e6).float()
    # Float32 holds 1e6 to 0.06, which the input has lost already; from there on it is exact.
    torch.testing.assert_close(
        layer(x).double(), (x.double() - 1e6) / (1 + 1e-5) ** 0.5, rtol=0, atol=0.1
    )


def test_channels_last_is_kept():
    layer, x = BatchRenorm2d(3, **RELAXED), normal(2, 3, 4, 4, dtype=torch.float32)
    twin = copy.deepcopy(layer)
    y = layer(x.to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, twin(x), rtol=1e-5, atol=1e-5)  # another order of float32 sums


def test_residual_and_activation_come_last():
    layer = BatchRenorm2d(3, activation="relu", dtype=torch.float64, **RELAXED)
    plain = BatchRenorm2d(3, dtype=torch.float64, **RELAXED)
    x, skip = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
    torch.testing.assert_close(layer(x, residual=skip), torch.relu(plain(x) + skip), **EXACT)
    assert "activation='relu'" in repr(layer)
    assert "r_max=3.0, d_max=5.0" in repr(layer)


@pytest.mark.parametrize("affine", [{"affine": False}, {"bias": False}])
def test_without_affine_or_bias(affine):
    layer = BatchRenorm1d(2, dtype=torch.float64, **affine, **RELAXED)
    layer.running_mean.fill_(0.5)
    x = normal(6, 2)
    std = torch.full((2,), 1 + layer.eps, dtype=torch.float64).sqrt()
    expected = other_norms.batch_renorm(x, std * 0 + 0.5, std, 3.0, 5.0, std * 0 + 1, std * 0)
    torch.testing.assert_close(layer(x), expected[0], **EXACT)


def test_non_finite_batch_leaves_averages_and_schedule_alone():
    layer = BatchRenorm1d(2)
    layer(torch.randn(4, 2))
    before = snapshot(layer)
    x = torch.randn(4, 2)
    x[1, 0] = float("nan")
    with pytest.warns(NonFiniteBatchWarning):
        y = layer(x)
    assert bool(y[:, 0].isnan().all())  # the output says so, as torch's does
    assert layer.refused_batches == 1
    assert same(snapshot(layer), before)


@pytest.mark.parametrize("training", [True, False])
def test_empty_batch(training):
    layer = BatchRenorm2d(3).train(training)
    before = snapshot(layer)
    x = torch.zeros(0, 3, 4, 4, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert y.shape == x.shape
    assert x.grad is not None
    assert same(snapshot(layer), before)


@pytest.mark.parametrize(
    ("x", "residual", "match"),
    [
        (torch.ones(1, 3), None, "one value per feature"),
        (torch.ones(4, 2), None, "num_features=3"),
        (torch.ones(4, 3, 2, 2), None, "2D or 3D"),
        (torch.ones(4, 3), torch.ones(4, 1), "residual has shape"),
    ],
)
def test_state_is_untouched_when_forward_raises(x, residual, match):
    layer = BatchRenorm1d(3)
    before = snapshot(layer)
    with pytest.raises(ValueError, match=match):
        layer(x, residual)
    assert same(snapshot(layer), before)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"r_max": 0.5}, "r_max=0.5.*give 1 or more"),
        ({"r_max": float("inf")}, "r_max=inf"),
        ({"d_max": -1}, "d_max=-1.*give 0 or more"),
        ({"warmup_steps": 50_000}, "warmup_steps=50000, r_steps=40000"),
        ({"r_steps": -1, "warmup_steps": -1}, "warmup_steps=-1"),
        ({"d_steps": 1}, "d_steps=1"),
        ({"track_running_stats": False}, "track_running_stats=False.*BatchNorm"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match) as error:
        BatchRenorm2d(3, **arguments)
    assert "\n" not in str(error.value)


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([0.0, -10.0, 1e3]),
    seed=st.integers(0, 999),
)
def test_agrees_with_the_formula_for_any_shape_and_scale(shape, scale, offset, seed):
    layer = BatchRenorm1d(shape[1], dtype=torch.float64, **RELAXED)
    x = (normal(*shape, seed=seed) * scale + offset).transpose(0, 2).contiguous().transpose(0, 2)
    std = (layer.running_var + layer.eps).sqrt()
    expected = other_norms.batch_renorm(
        x, layer.running_mean.clone(), std, 3.0, 5.0, layer.weight, layer.bias
    )[0]
    # A mean of 1e6 scales costs six of the sixteen digits.
    torch.testing.assert_close(layer(x), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("training", [True, False])
def test_on_another_device(training):
    # The meta device refuses to be mixed with any other: nothing is made on the wrong one.
    layer = BatchRenorm2d(3, device="meta").train(training)
    y = layer(torch.empty(2, 3, 4, 4, device="meta"))
    assert (y.shape, y.device.type) == ((2, 3, 4, 4), "meta")


def test_a_training_step_leaves_earlier_evaluations_differentiable():
    layer, x = BatchRenorm1d(3), normal(4, 3, dtype=torch.float32).requires_grad_()
    evaluated = layer.eval()(x)
    layer.train()(x)
    evaluated.sum().backward()  # as with torch's batch norm: nothing it saved was changed
    assert bool((x.grad != 0).all())


def test_update_bn_recomputes_the_averages():
    layer = BatchRenorm1d(3, momentum=0.3, dtype=torch.float64)
    batches = [normal(6, 3, seed=s) * 2 + 5 for s in range(3)]
    layer(batches[0])
    torch.optim.swa_utils.update_bn(batches, layer)
    means = torch.stack([x.mean(0) for x in batches])
    stds = torch.stack([(x.var(0, correction=0) + layer.eps).sqrt() for x in batches])
    torch.testing.assert_close(layer.running_mean, means.mean(0), **EXACT)
    torch.testing.assert_close((layer.running_var + layer.eps).sqrt(), stds.mean(0), **EXACT)
    assert layer.momentum == 0.3
