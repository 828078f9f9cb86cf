"""The portable path: PyTorch's own operators, one after the other."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types themselves.
import torch.nn.functional as F
from torch import Tensor

from gammabeta.ops.activations import activate


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """``activation(batch_norm(x) + residual)``; updates the running statistics in training."""
    y = F.batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    return finish(y, activation, residual)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """``activation(instance_norm(x) + residual)``; updates the running statistics it is given."""
    y = F.instance_norm(x, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
    return finish(y, activation, residual)


def layer_norm(
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """``activation(layer_norm(x) + residual)``."""
    return finish(F.layer_norm(x, normalized_shape, weight, bias, eps), activation, residual)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """``activation(group_norm(x) + residual)``."""
    return finish(F.group_norm(x, num_groups, weight, bias, eps), activation, residual)


def rms_norm(
    x: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None,
    eps: float | None,
    activation: str | None,
    residual: Tensor | None,
) -> Tensor:
    """``activation(rms_norm(x) + residual)``."""
    return finish(F.rms_norm(x, normalized_shape, weight, eps), activation, residual)


def finish(y: Tensor, activation: str | None, residual: Tensor | None) -> Tensor:
    """What follows normalization: add the residual, then apply the activation."""
    return activate(y if residual is None else y + residual, activation)
