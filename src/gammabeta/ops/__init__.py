"""Normalization kernels behind one dispatch.

Layers call the five functions named here and nothing below them. The native kernels of `cpu` run
where they support a call, if they were built and `use` has not chosen otherwise; torch's own
operators (`torch`) do the rest. `reference` is the oracle that every backend is tested against.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from gammabeta.ops import lean
from gammabeta.ops.allocator import reuse_memory, reuse_memory_if_asked
from gammabeta.ops.cpu import batch as cpu
from gammabeta.ops.cpu import per_example
from gammabeta.ops.cpu.library import use
from gammabeta.ops.cpu.support import are_finite, in_memory
from gammabeta.ops.torch import norms as eager

__all__ = [
    "batch_norm",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "reuse_memory",
    "rms_norm",
    "use",
]

reuse_memory_if_asked()


def _sizes(normalized_shape: Sequence[int]) -> list[int]:
    """A list, as scripts take it; what is no sequence is left for torch to refuse."""
    if isinstance(normalized_shape, Sequence):
        return list(normalized_shape)
    return normalized_shape


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    training: bool,
    momentum: float,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
    memory: str = "default",
) -> Tensor:
    """``activation(batch_norm(x) + residual)``: x (N, C, ...), parameters and statistics (C,).

    With ``memory="lean"`` the output is made again in the backward pass, where a kernel can.
    """
    done = cpu.batch_norm(
        *(x, running_mean, running_var, weight, bias, training, momentum, eps),
        activation,
        residual,
        memory=memory,
    )
    if done is not None:
        return done[0]
    in_memory(
        input=x,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        residual=residual,
    )
    y: Tensor = eager.batch_norm(
        x, running_mean, running_var, weight, bias, training, momentum, eps, activation, residual
    )
    return y


@lean.aware
def instance_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(instance_norm(x) + residual)``: x (N, C, ...), the rest (C,).

    With ``use_input_stats`` the running statistics move towards the mean over N of each
    example's mean and unbiased variance; without it they are what normalizes.
    """
    if are_finite(momentum):
        done = per_example.instance_norm(
            x,
            running_mean,
            running_var,
            weight,
            bias,
            use_input_stats,
            eps,
            activation,
            residual,
        )
        if done is not None:
            return done
    in_memory(
        input=x,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
        residual=residual,
    )
    y: Tensor = eager.instance_norm(
        x,
        running_mean,
        running_var,
        weight,
        bias,
        use_input_stats,
        momentum,
        eps,
        activation,
        residual,
    )
    return y


@lean.aware
def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(layer_norm(x) + residual)``: parameters have the shape ``normalized_shape``."""
    done = per_example.layer_norm(x, normalized_shape, weight, bias, eps, activation, residual)
    if done is not None:
        return done
    in_memory(input=x, weight=weight, bias=bias, residual=residual)
    y: Tensor = eager.layer_norm(
        x, _sizes(normalized_shape), weight, bias, eps, activation, residual
    )
    return y


@lean.aware
def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    *,
    eps: float,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(group_norm(x) + residual)``: x (N, C, ...), parameters (C,)."""
    done = per_example.group_norm(x, num_groups, weight, bias, eps, activation, residual)
    if done is not None:
        return done
    in_memory(input=x, weight=weight, bias=bias, residual=residual)
    y: Tensor = eager.group_norm(x, num_groups, weight, bias, eps, activation, residual)
    return y


@lean.aware
def rms_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    *,
    eps: float | None,
    activation: str | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(rms_norm(x) + residual)``; ``eps=None``: see `RMSNorm`."""
    done = per_example.rms_norm(x, normalized_shape, weight, eps, activation, residual)
    if done is not None:
        return done
    in_memory(input=x, weight=weight, residual=residual)
    y: Tensor = eager.rms_norm(x, _sizes(normalized_shape), weight, eps, activation, residual)
    return y
