"""A whole norm in torch's own operators, one after the other."""

# No `from __future__ import annotations`: `torch.jit.script` reads the types of `finish`.
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gammabeta.ops.activations import activate
from gammabeta.ops.allocated import check_call
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, LAYER, RMS, Call


def forward(call: Call) -> Tensor:
    """Return ``activation(norm(x) + residual)``; the running statistics of the call move.

    It counts no batch and guards nothing: where ``call.entered`` stays None, the caller does.
    """
    check_call(call)
    y = OPERATORS[call.kind](call, call.x, call.weight, call.bias)
    return finish(y, call.activation, call.residual, call.slope)


def finish(
    y: Tensor, activation: str | None, residual: Tensor | None, slope: float = 0.01
) -> Tensor:
    """What follows normalization: add the residual, then apply the activation."""
    return activate(y if residual is None else y + residual, activation, slope)


def _batch(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    running, momentum = (call.running_mean, call.running_var), call.momentum
    return F.batch_norm(
        x, *running, weight, bias, call.training, 0.0 if momentum is None else momentum, call.eps
    )


def _instance(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    running, momentum = (call.running_mean, call.running_var), call.momentum
    return F.instance_norm(
        x, *running, weight, bias, call.training, 0.0 if momentum is None else momentum, call.eps
    )


def _layer(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.layer_norm(x, _sizes(call), weight, bias, call.eps)


def _group(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.group_norm(x, call.num_groups, weight, bias, call.eps)


def _rms(call: Call, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.rms_norm(x, _sizes(call), weight, call.eps)


def _sizes(call: Call) -> Any:
    """A list, as scripts take it; what is no sequence is left for torch to refuse."""
    shape = call.normalized_shape
    return list(shape) if isinstance(shape, Sequence) else shape


OPERATORS: dict[str, Callable[[Call, Tensor, Tensor | None, Tensor | None], Tensor]] = {
    BATCH: _batch,
    INSTANCE: _instance,
    LAYER: _layer,
    GROUP: _group,
    RMS: _rms,
}
"""Kind → the norm alone, of x, weight and bias in place of the call's."""
