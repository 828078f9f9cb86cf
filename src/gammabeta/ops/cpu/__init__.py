"""The CPU backend: kernels in C++ where they support a call.

Whatever they do not take is torch's: other devices and layouts, tensor subclasses, and every
transform that has to see torch's own operators (`torch.compile`, `torch.func`, tracing,
forward-mode derivatives). So is the derivative of the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gammabeta.ops.cpu import batch, library, per_example
from gammabeta.ops.cpu.phases import apply, backward, statistics
from gammabeta.ops.spec import BATCH, GROUP, INSTANCE, LAYER, RMS, Call

__all__ = ["apply", "backward", "forward", "statistics"]

_FORWARD: dict[str, Callable[[Call], Tensor | None]] = {
    BATCH: batch.forward,
    INSTANCE: per_example.instance_norm,
    LAYER: per_example.layer_norm,
    GROUP: per_example.group_norm,
    RMS: per_example.rms_norm,
}


def forward(call: Call) -> Tensor | None:
    """Return ``activation(norm(x) + residual)`` in one pass, or None where torch has to do it."""
    return _FORWARD[call.kind](call) if library.chosen else None
