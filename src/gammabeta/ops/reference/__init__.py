"""The reference backend: the papers' formulas line by line, the oracle of every test.

It computes every call in whatever precision it is given, on any device, and is slow. It moves no
running statistics, and has no phases.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gammabeta.ops.reference import torch_norms as formulas
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, LAYER, Call, Gradients, Statistics
from gammabeta.ops.torch.norms import finish

__all__ = ["apply", "backward", "forward", "statistics"]


def forward(call: Call) -> Tensor:
    """Return ``activation(norm(x) + residual)`` by the papers' formulas, with autograd's graph."""
    x, weight, bias, eps = call.x, call.weight, call.bias, call.eps
    dims = len(call.normalized_shape)
    mean, var = call.running_mean, call.running_var
    if not call.training and mean is not None and var is not None:
        y = formulas.batch_norm_inference(x, mean, var, weight, bias, eps)
    elif call.kind == BATCH:
        y = formulas.batch_norm(x, weight, bias, eps)[0]
    elif call.kind == INSTANCE:
        y = formulas.instance_norm(x, weight, bias, eps)
    elif call.kind == GROUP:
        y = formulas.group_norm(x, call.num_groups, weight, bias, eps)
    elif call.kind == LAYER:
        y = formulas.layer_norm(x, dims, weight, bias, eps)[0]
    else:
        y = formulas.rms_norm(x, dims, weight, torch.finfo(x.dtype).eps if eps is None else eps)
    return finish(y, call.activation, call.residual, call.slope)


def statistics(call: Call) -> Statistics | None:
    """Support no call: a formula is one piece."""


def apply(call: Call, statistics: Statistics) -> Tensor | None:
    """Support no call."""


def backward(call: Call, statistics: Statistics, g: Tensor, reduce: object) -> Gradients | None:
    """Support no call."""
