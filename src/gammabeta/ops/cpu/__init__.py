"""The CPU backend: kernels in C++ where they support a call.

Whatever they do not take is torch's: other devices and layouts, tensor subclasses, and every
transform that has to see torch's own operators (`torch.compile`, `torch.func`, tracing,
forward-mode derivatives). So is the derivative of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gammabeta.ops.cpu import batch, library, per_example
from gammabeta.ops.cpu.autograd import Plan
from gammabeta.ops.cpu.batch import evaluate
from gammabeta.ops.cpu.phases import apply, backward, statistics
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, LAYER, RMS, Call

__all__ = ["apply", "backward", "evaluate", "forward", "plan", "statistics"]

_FORWARD: dict[str, Callable[[Call], Tensor | None]] = {
    BATCH: batch.forward,
    INSTANCE: per_example.instance_norm,
    LAYER: per_example.layer_norm,
    GROUP: per_example.group_norm,
    RMS: per_example.rms_norm,
}

_PLAN: dict[str, Callable[[Call], Plan | None]] = {
    BATCH: batch.plan_of,
    INSTANCE: per_example.group_plan,
    LAYER: per_example.row_plan,
    GROUP: per_example.group_plan,
    RMS: per_example.row_plan,
}


def plan(call: Call) -> Plan | None:
    """Return how the kernels run ``call``, however small; None if they do not support it."""
    return _PLAN[call.kind](call) if library.chosen else None


def forward(call: Call) -> Tensor | None:
    """Return ``activation(norm(x) + residual)`` in one pass, or None where torch has to do it."""
    return _FORWARD[call.kind](call) if library.chosen else None
