"""The phases of batch norm by the native kernels; those of the other norms are torch's.

The statistics are torch's too: the kernels take them in the pass that applies them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.autograd import Plan, backward_pass, forward_pass
from gammabeta.ops.cpu.batch import plan_of
from gammabeta.ops.spec import BATCH, Call, Gradients, Statistics


def statistics(call: Call) -> Statistics | None:
    """Leave the statistics to torch."""


@torch.no_grad()
def apply(call: Call, statistics: Statistics) -> Tensor | None:
    """Return the output of a batch norm by ``statistics``."""
    plan = _plan(call)
    if plan is None:
        return None
    packed = _packed(call, statistics)
    return forward_pass(call.x, call.weight, call.bias, call.residual, None, plan, packed)[0]


@torch.no_grad()
def backward(
    call: Call,
    statistics: Statistics,
    g: Tensor,
    reduce: Callable[[Tensor], Tensor] | None = None,
) -> Gradients | None:
    """Return the gradients of a batch norm whose statistics are those of x, or fixed."""
    plan = _plan(call) if reduce is None else None
    if plan is None or call.residual is not None:
        return None  # what a ReLU let through is known to the forward pass alone
    plan.native.average(call.training, 0.0, 0, 0, 0, 0, False)
    packed, needs = _packed(call, statistics), (True, True, True, False, False)
    found = backward_pass(g, call.x, call.weight, call.bias, None, None, packed, None, plan, needs)
    assert found[0] is not None  # noqa: S101  (it was asked for)
    return Gradients(found[0], found[1], found[2], None)


def _plan(call: Call) -> Plan | None:
    return plan_of(call) if library.chosen and call.kind == BATCH else None


def _packed(call: Call, statistics: Statistics) -> Tensor:
    """The statistics as the kernels keep them: means, then 1/σ, in float64."""
    inverse = (statistics.var.double() + call.eps).rsqrt()
    return torch.cat([statistics.mean.double().flatten(), inverse.flatten()])
