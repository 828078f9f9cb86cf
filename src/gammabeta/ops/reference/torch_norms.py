"""Normalization as the papers write it: the oracle of every test.

Nothing here is fast. Each function takes one algorithm line by line, in whatever precision it is
given (the tests give float64), with its backward pass derived by hand, so that a reader can hold
it against the paper and a kernel can be held against it.

Sources:
    Ioffe & Szegedy 2015, *Batch Normalization*, Algorithm 1 and the equations after it (section 3).
    Ba, Kiros & Hinton 2016, *Layer Normalization*, equations 3 and 4.
    Ulyanov, Vedaldi & Lempitsky 2016, *Instance Normalization*, equation 2.
    Wu & He 2018, *Group Normalization*, section 3.
    Zhang & Sennrich 2019, *Root Mean Square Layer Normalization*, equation 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Saved(NamedTuple):
    """What the forward pass keeps for the backward pass; every tensor broadcasts against x."""

    x: Tensor
    mean: Tensor
    var: Tensor
    x_hat: Tensor
    weight: Tensor | None
    dims: tuple[int, ...]
    affine_dims: tuple[int, ...]
    eps: float


def batch_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> tuple[Tensor, Saved]:
    """Algorithm 1: normalize each feature over the mini-batch, then scale and shift.

    Args:
        x: (N, C) or (N, C, ...); a feature is an index of dim 1, the mini-batch is the rest.
        weight: γ, (C,), or None for 1.
        bias: β, (C,), or None for 0.
        eps: ε, added to the variance.

    Returns:
        y, shaped as x, and what `batch_norm_backward` needs.
    """
    batch = (0, *range(2, x.dim()))
    mean = x.mean(batch, keepdim=True)  # μ_B = 1/m Σ x_i
    var = ((x - mean) ** 2).mean(batch, keepdim=True)  # σ²_B = 1/m Σ (x_i − μ_B)²
    x_hat = (x - mean) / torch.sqrt(var + eps)  # x̂_i = (x_i − μ_B) / √(σ²_B + ε)
    y = _scale_and_shift(x_hat, weight, bias, first=1)  # y_i = γ x̂_i + β
    return y, Saved(x, mean, var, x_hat, weight, batch, batch, eps)


def batch_norm_backward(
    grad_y: Tensor, saved: Saved
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ∂ℓ/∂x, ∂ℓ/∂γ, ∂ℓ/∂β by the chain rule, in the order the paper gives the terms."""
    x, mean, var, x_hat, weight, batch, _, eps = saved
    m = x.numel() // max(mean.numel(), 1)
    inverse_std = 1 / torch.sqrt(var + eps)
    # ∂ℓ/∂x̂_i = ∂ℓ/∂y_i · γ
    grad_x_hat = grad_y if weight is None else grad_y * _features(weight, x.dim(), first=1)
    # ∂ℓ/∂σ²_B = Σ ∂ℓ/∂x̂_i · (x_i − μ_B) · −½ (σ²_B + ε)^−3/2
    grad_var = (grad_x_hat * (x - mean) * -0.5 * inverse_std**3).sum(batch, keepdim=True)
    # ∂ℓ/∂μ_B = Σ ∂ℓ/∂x̂_i · −1/√(σ²_B + ε) + ∂ℓ/∂σ²_B · Σ −2(x_i − μ_B) / m
    grad_mean = (-grad_x_hat * inverse_std).sum(batch, keepdim=True) + grad_var * (
        -2 * (x - mean)
    ).sum(batch, keepdim=True) / m
    # ∂ℓ/∂x_i = ∂ℓ/∂x̂_i / √(σ²_B + ε) + ∂ℓ/∂σ²_B · 2(x_i − μ_B)/m + ∂ℓ/∂μ_B / m
    grad_x = grad_x_hat * inverse_std + grad_var * 2 * (x - mean) / m + grad_mean / m
    if weight is None:
        return grad_x, None, None
    # ∂ℓ/∂γ = Σ ∂ℓ/∂y_i · x̂_i        ∂ℓ/∂β = Σ ∂ℓ/∂y_i
    return grad_x, (grad_y * x_hat).sum(batch), grad_y.sum(batch)


def batch_norm_inference(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Algorithm 2, line 11: the fixed affine map of population statistics (C,)."""
    x_hat = (x - _features(mean, x.dim(), 1)) / torch.sqrt(_features(var, x.dim(), 1) + eps)
    return _scale_and_shift(x_hat, weight, bias, first=1)


def layer_norm(
    x: Tensor,
    normalized_dims: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> tuple[Tensor, Saved]:
    """Normalize each example over its last ``normalized_dims`` dims; γ, β have their shape."""
    first = x.dim() - normalized_dims
    dims = tuple(range(first, x.dim()))
    mean = x.mean(dims, keepdim=True)
    var = ((x - mean) ** 2).mean(dims, keepdim=True)
    x_hat = (x - mean) / torch.sqrt(var + eps)
    y = _scale_and_shift(x_hat, weight, bias, first=first)
    return y, Saved(x, mean, var, x_hat, weight, dims, tuple(range(first)), eps)


def layer_norm_backward(
    grad_y: Tensor, saved: Saved
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return ∂ℓ/∂x, ∂ℓ/∂γ, ∂ℓ/∂β of `layer_norm`.

    With g = ∂ℓ/∂x̂ and averages over the normalized dims:
    ∂ℓ/∂x = (g − mean(g) − x̂ · mean(g x̂)) / √(σ² + ε).
    """
    var, x_hat, weight, dims = saved.var, saved.x_hat, saved.weight, saved.dims
    affine_dims, eps = saved.affine_dims, saved.eps
    g = grad_y if weight is None else grad_y * weight
    grad_x = (
        g - g.mean(dims, keepdim=True) - x_hat * (g * x_hat).mean(dims, keepdim=True)
    ) / torch.sqrt(var + eps)
    if weight is None:
        return grad_x, None, None
    grad_weight, grad_bias = grad_y * x_hat, grad_y
    if affine_dims:
        grad_weight, grad_bias = grad_weight.sum(affine_dims), grad_bias.sum(affine_dims)
    return grad_x, grad_weight, grad_bias


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalize each example's channels in ``num_groups`` groups, over C/G channels and space.

    x: (N, C, ...). γ, β: (C,).
    """
    grouped = x.reshape(x.shape[0], num_groups, -1)
    x_hat = layer_norm(grouped, 1, eps=eps)[1].x_hat.reshape(x.shape)
    return _scale_and_shift(x_hat, weight, bias, first=1)


def instance_norm(
    x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalize each channel of each example over its positions; x: (N, C, ...), γ, β: (C,)."""
    space = tuple(range(2, x.dim()))
    mean = x.mean(space, keepdim=True)  # μ_ti = 1/HW Σ_lm x_tilm
    var = ((x - mean) ** 2).mean(space, keepdim=True)  # σ²_ti = 1/HW Σ_lm (x_tilm − μ_ti)²
    x_hat = (x - mean) / torch.sqrt(var + eps)
    return _scale_and_shift(x_hat, weight, bias, first=1)


def rms_norm(
    x: Tensor, normalized_dims: int, weight: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Divide each example by its root mean square over the last dims: γ · x / √(mean(x²) + ε)."""
    dims = tuple(range(x.dim() - normalized_dims, x.dim()))
    x_hat = x / torch.sqrt((x**2).mean(dims, keepdim=True) + eps)
    return x_hat if weight is None else x_hat * weight


def _scale_and_shift(
    x_hat: Tensor, weight: Tensor | None, bias: Tensor | None, first: int
) -> Tensor:
    """γ x̂ + β, where γ and β start at dim ``first`` of x̂."""
    y = x_hat if weight is None else x_hat * _features(weight, x_hat.dim(), first)
    return y if bias is None else y + _features(bias, x_hat.dim(), first)


def _features(parameter: Tensor, dims: int, first: int) -> Tensor:
    """View a parameter so that its dims line up with dims ``first``, ``first + 1``, … of x."""
    return parameter.reshape(
        (1,) * first + tuple(parameter.shape) + (1,) * (dims - first - parameter.dim())
    )
