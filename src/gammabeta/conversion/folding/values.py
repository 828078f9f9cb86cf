"""Multiply a fixed affine map per channel into the weights of a layer before or after it.

Everything is computed in float64 and rounded once, to the type of the parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from gammabeta.conversion.graph.norms import eps_of, gamma_beta


@dataclass(frozen=True)
class Affine:
    """``y = scale · x + shift`` per channel, in float64: what a batch norm is in evaluation."""

    scale: Tensor
    shift: Tensor

    def then(self, other: Affine) -> Affine:
        """Return what both do, this one first."""
        return Affine(self.scale * other.scale, self.shift * other.scale + other.shift)


@dataclass(frozen=True)
class Weights:
    """Weight and bias of a layer, in float64."""

    weight: Tensor
    bias: Tensor | None


def affine_of(norm: Any) -> Affine:
    """Return what ``norm`` computes by its running statistics.

    Example:
        >>> affine = affine_of(nn.BatchNorm1d(2, eps=0).eval())
        >>> affine.scale.tolist(), affine.shift.tolist()
        ([1.0, 1.0], [0.0, 0.0])
    """
    mean, var = norm.running_mean.detach().double(), norm.running_var.detach().double()
    gamma, beta = gamma_beta(norm)
    scale = (var + eps_of(norm)).rsqrt()
    if gamma is not None:
        scale = scale * gamma.detach().double()
    shift = -mean * scale
    if beta is not None:
        shift = shift + beta.detach().double()
    return Affine(scale, shift)


def weights_of(layer: Any) -> Weights:
    """Return weight and bias of a convolution or linear layer."""
    bias = layer.bias
    return Weights(layer.weight.detach().double(), None if bias is None else bias.detach().double())


def fold_before(layer: nn.Module, weights: Weights, affine: Affine) -> Weights:
    """Return the weights with which ``layer`` also does what follows it, ``affine``.

    Example:
        >>> layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
        >>> twice = Affine(torch.full((6,), 2.0).double(), torch.ones(6).double())
        >>> fold_before(layer, weights_of(layer), twice).weight.shape
        torch.Size([4, 3, 3, 3])
    """
    scale, shift = affine.scale.to(weights.weight.device), affine.shift.to(weights.weight.device)
    blocks = _blocks(layer, weights.weight)
    shape = (blocks.shape[0], -1, 1, *(1,) * (blocks.dim() - 3))
    weight = _unblocked(layer, blocks * scale.reshape(shape), weights.weight)
    return Weights(weight, shift if weights.bias is None else weights.bias * scale + shift)


def fold_after(layer: nn.Module, weights: Weights, affine: Affine) -> Weights:
    """Return the weights with which ``layer`` also does what precedes it, ``affine``."""
    scale, shift = affine.scale.to(weights.weight.device), affine.shift.to(weights.weight.device)
    blocks = _blocks(layer, weights.weight)
    shape = (blocks.shape[0], 1, -1, *(1,) * (blocks.dim() - 3))
    weight = _unblocked(layer, blocks * scale.reshape(shape), weights.weight)
    if not shift.any():
        return Weights(weight, weights.bias)
    moved = (blocks * shift.reshape(shape)).flatten(2).sum(2).flatten()
    return Weights(weight, moved if weights.bias is None else weights.bias + moved)


def reason_not_after(layer: nn.Module, affine: Affine) -> str:
    """Why the affine map before ``layer`` cannot be part of it; "" if it can.

    A shift is the same for every output only if every output sums over all of the kernel: not
    where zeros are padded, which the map would not move, nor in a transposed convolution.
    """
    if not isinstance(layer, _ConvNd) or not affine.shift.any():
        return ""
    if isinstance(layer, _ConvTransposeNd):
        if all(k == 1 and s == 1 for k, s in zip(layer.kernel_size, layer.stride, strict=True)):
            return ""
        return "is transposed: its shift would differ between positions"
    if layer.padding_mode != "zeros":
        return ""
    padding = layer.padding
    if padding == "same":
        padding = tuple(k - 1 for k in layer.kernel_size)
    if padding == "valid" or not any(padding):
        return ""
    return "pads with zeros, which the norm's shift would have to move"


def _blocks(layer: nn.Module, weight: Tensor) -> Tensor:
    """``weight`` as (groups, out / groups, in / groups, ...)."""
    groups = int(getattr(layer, "groups", 1))
    blocks = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return blocks.transpose(1, 2) if isinstance(layer, _ConvTransposeNd) else blocks


def _unblocked(layer: nn.Module, blocks: Tensor, like: Tensor) -> Tensor:
    """The inverse, in the memory format of ``like``."""
    if isinstance(layer, _ConvTransposeNd):
        blocks = blocks.transpose(1, 2)
    return torch.empty_like(like).copy_(blocks.reshape(like.shape))


def rounded(value: Tensor, dtype: torch.dtype) -> Tensor | None:
    """Return ``value`` in ``dtype``, or None if that has no room for it.

    Too large for it is what becomes infinite; too small is a channel whose largest value is
    subnormal, hence inexact.

    Example:
        >>> rounded(torch.tensor([7e4]).double(), torch.float16) is None
        True
    """
    there = value.to(dtype)
    if not bool(there.isfinite().all()):
        return None
    largest = value.flatten(1).abs().amax(1) if value.dim() > 1 else value.abs()
    if value.dim() > 1 and bool(((largest > 0) & (largest < torch.finfo(dtype).tiny)).any()):
        return None
    return there
