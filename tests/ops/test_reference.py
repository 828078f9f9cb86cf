"""The oracle itself: held against float64 autograd, torch's operators and numbers done by hand.

Every other numeric test leans on `kernels.reference`, so here it may lean on nothing of ours. All
in float64; 1e-12 leaves four digits above the rounding (2e-16 · a few hundred terms · |x/σ| ~ 10)
and is far below any error of a formula.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.ops.reference import torch_norms as reference

TOLERANCE = {"rtol": 1e-12, "atol": 1e-12}
BATCH_SHAPES = [(7, 5), (4, 5, 3), (3, 5, 2, 4), (2, 5, 2, 3, 2)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    """Float64 values far from mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(seed)
    return 3 + 2 * torch.randn(shape, dtype=torch.float64, generator=generator)


def close(actual: Tensor | None, expected: Tensor | None) -> None:
    assert actual is not None
    assert expected is not None
    torch.testing.assert_close(actual, expected, **TOLERANCE)


def test_batch_norm_of_two_numbers_by_hand() -> None:
    # One feature, batch {1, 5}: μ = 3, σ² = 4; with ε = 0, x̂ = ∓1 and y = 10·x̂ + 7.
    x = torch.tensor([[1.0], [5.0]], dtype=torch.float64)
    ten, seven = torch.tensor([10.0]).double(), torch.tensor([7.0]).double()
    y, saved = reference.batch_norm(x, ten, seven, eps=0.0)
    assert y.tolist() == [[-3.0], [17.0]]
    assert saved.x_hat.tolist() == [[-1.0], [1.0]]
    assert (saved.mean.item(), saved.var.item()) == (3.0, 4.0)
    # ∂ℓ/∂y = (1, 0): x̂ cannot move with two values, so ∂ℓ/∂x = 0; ∂ℓ/∂γ = x̂₁ = −1; ∂ℓ/∂β = 1.
    grad_x, grad_weight, grad_bias = reference.batch_norm_backward(
        torch.tensor([[1.0], [0.0]], dtype=torch.float64), saved
    )
    assert grad_x.abs().max() < 1e-15
    assert grad_weight is not None
    assert grad_bias is not None
    assert (grad_weight.item(), grad_bias.item()) == (-1.0, 1.0)


@pytest.mark.parametrize("shape", BATCH_SHAPES, ids=str)
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_batch_norm_is_torchs(shape: tuple[int, ...], affine: bool, eps: float) -> None:
    x = drawn(*shape).requires_grad_()
    weight = drawn(5, seed=1).requires_grad_() if affine else None
    bias = drawn(5, seed=2).requires_grad_() if affine else None
    grad_y = drawn(*shape, seed=3)

    expected = F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)
    with torch.no_grad():
        y, saved = reference.batch_norm(x, weight, bias, eps)
        gradients = reference.batch_norm_backward(grad_y, saved)

    close(y, expected)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    for ours, autograd in zip(
        gradients, torch.autograd.grad(expected, leaves, grad_y), strict=False
    ):
        close(ours, autograd)
    if not affine:
        assert gradients[1:] == (None, None)


@pytest.mark.parametrize("shape", BATCH_SHAPES, ids=str)
def test_batch_norm_backward_is_autograd_of_its_forward(shape: tuple[int, ...]) -> None:
    leaves = [drawn(*shape), drawn(5, seed=1), drawn(5, seed=2)]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    grad_y = drawn(*shape, seed=3)
    y, saved = reference.batch_norm(*leaves)
    autograd = torch.autograd.grad(y, leaves, grad_y)
    for ours, theirs in zip(reference.batch_norm_backward(grad_y, saved), autograd, strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("shape", BATCH_SHAPES, ids=str)
def test_batch_norm_inference_is_torchs(shape: tuple[int, ...]) -> None:
    x, mean, var = drawn(*shape), drawn(5, seed=1), drawn(5, seed=2).square()
    weight, bias = drawn(5, seed=3), drawn(5, seed=4)
    close(
        reference.batch_norm_inference(x, mean, var, weight, bias, eps=0.01),
        F.batch_norm(x, mean, var, weight, bias, training=False, eps=0.01),
    )
    close(
        reference.batch_norm_inference(x, mean, var),
        F.batch_norm(x, mean, var, training=False),
    )


@pytest.mark.parametrize(
    ("shape", "dims"), [((3, 6), 1), ((2, 4, 6), 1), ((2, 4, 6), 2), ((6,), 1)], ids=str
)
@pytest.mark.parametrize("affine", [True, False])
def test_layer_norm_is_torchs(shape: tuple[int, ...], dims: int, affine: bool) -> None:
    last = shape[-dims:]
    x = drawn(*shape).requires_grad_()
    weight = drawn(*last, seed=1).requires_grad_() if affine else None
    bias = drawn(*last, seed=2).requires_grad_() if affine else None
    grad_y = drawn(*shape, seed=3)

    expected = F.layer_norm(x, last, weight, bias, eps=0.01)
    with torch.no_grad():
        y, saved = reference.layer_norm(x, dims, weight, bias, eps=0.01)
        gradients = reference.layer_norm_backward(grad_y, saved)

    close(y, expected)
    leaves = [leaf for leaf in (x, weight, bias) if leaf is not None]
    for ours, autograd in zip(
        gradients, torch.autograd.grad(expected, leaves, grad_y), strict=False
    ):
        close(ours, autograd)
    if not affine:
        assert gradients[1:] == (None, None)


@pytest.mark.parametrize("shape", [(3, 6), (2, 6, 5), (2, 6, 3, 2)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_group_norm_is_torchs(shape: tuple[int, ...], groups: int) -> None:
    if shape == (3, 6) and groups == 6:
        shape = (3, 6, 2)  # one value a group has no variance
    x, weight, bias = drawn(*shape), drawn(6, seed=1), drawn(6, seed=2)
    close(
        reference.group_norm(x, groups, weight, bias, eps=0.01),
        F.group_norm(x, groups, weight, bias, eps=0.01),
    )


@pytest.mark.parametrize(("shape", "dims"), [((3, 6), 1), ((2, 4, 6), 1), ((2, 4, 6), 2)], ids=str)
def test_rms_norm_is_torchs(shape: tuple[int, ...], dims: int) -> None:
    last = shape[-dims:]
    x, weight = drawn(*shape), drawn(*last, seed=1)
    close(
        reference.rms_norm(x, dims, weight, eps=0.01), F.rms_norm(x, list(last), weight, eps=0.01)
    )
    close(reference.rms_norm(x, dims, eps=0.01), F.rms_norm(x, list(last), eps=0.01))


@pytest.mark.parametrize(
    ("forward", "parameters"),
    [
        (lambda x, w, b: reference.batch_norm(x, w, b)[0], 2),
        (lambda x, w, b: reference.layer_norm(x, 1, w.repeat(2)[:6], b.repeat(2)[:6])[0], 2),
        (lambda x, w, b: reference.group_norm(x, 2, w, b), 2),
        (lambda x, w: reference.rms_norm(x, 1, w.repeat(2)[:6]), 1),
    ],
    ids=["batch", "layer", "group", "rms"],
)
def test_finite_differences_agree_with_autograd(forward: object, parameters: int) -> None:
    x = drawn(3, 4, 6).requires_grad_()
    leaves = [drawn(4, seed=i + 1).requires_grad_() for i in range(parameters)]
    assert torch.autograd.gradcheck(forward, (x, *leaves))


def test_the_handwritten_backwards_agree_with_finite_differences() -> None:
    """Not autograd's word but the function itself: a central difference of ℓ = Σ g · y."""
    step = 1e-5
    for forward, backward, shape, size in (
        (reference.batch_norm, reference.batch_norm_backward, (4, 3), 3),
        (
            lambda x, w, b: reference.layer_norm(x, 1, w, b),
            reference.layer_norm_backward,
            (4, 3),
            3,
        ),
    ):
        leaves = [drawn(*shape), drawn(size, seed=1), drawn(size, seed=2)]
        grad_y = drawn(*shape, seed=3)
        gradients = backward(grad_y, forward(*leaves)[1])
        for leaf, gradient in zip(leaves, gradients, strict=True):
            measured = torch.empty_like(leaf)
            for index in range(leaf.numel()):
                kept = leaf.view(-1)[index].item()
                losses = []
                for moved in (kept + step, kept - step):
                    leaf.view(-1)[index] = moved
                    losses.append((grad_y * forward(*leaves)[0]).sum())
                leaf.view(-1)[index] = kept
                measured.view(-1)[index] = (losses[0] - losses[1]) / (2 * step)
            # Truncation step² · ℓ''' ~ 1e-10 · 1e2, rounding 1e-16 · |ℓ| / step ~ 1e-9.
            torch.testing.assert_close(gradient, measured, rtol=1e-6, atol=1e-6)
