"""The norms as functions of tensors: `Call` built from arguments in torch's order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from gammabeta import ops


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    running = {"running_mean": running_mean, "running_var": running_var}
    return ops.normalize(ops.Call(ops.BATCH, x, weight, bias, **running, **settings))


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    use_input_stats: bool = True,
    **settings: Any,
) -> Tensor:
    running = {
        "running_mean": running_mean,
        "running_var": running_var,
        "training": use_input_stats,
    }
    return ops.normalize(ops.Call(ops.INSTANCE, x, weight, bias, **running, **settings))


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return ops.normalize(
        ops.Call(ops.LAYER, x, weight, bias, normalized_shape=normalized_shape, **settings)
    )


def rms_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, **settings: Any
) -> Tensor:
    return ops.normalize(
        ops.Call(ops.RMS, x, weight, normalized_shape=normalized_shape, **settings)
    )


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    return ops.normalize(ops.Call(ops.GROUP, x, weight, bias, num_groups=num_groups, **settings))
