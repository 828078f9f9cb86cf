"""Normalization behind one door.

A layer describes what it wants as a `Call` and hands it to `normalize`; it knows nothing below.
`registry` asks the backends: the native kernels of `cpu`, and `torch`'s own operators, which take
every call. `reference` is the oracle that both are tested against. `operators` registers the norms
with `torch.library`.
"""

from gammabeta.ops.allocator import reuse_memory, reuse_memory_if_asked
from gammabeta.ops.cpu.library import use
from gammabeta.ops.registry import (
    BACKENDS,
    apply,
    backward,
    normalize,
    normalize_and_count,
    statistics,
)
from gammabeta.ops.spec import (
    BATCH,
    GROUP,
    INSTANCE,
    LAYER,
    RMS,
    Call,
    Gradients,
    Statistics,
    merge,
)

__all__ = [
    "BACKENDS",
    "BATCH",
    "GROUP",
    "INSTANCE",
    "LAYER",
    "RMS",
    "Call",
    "Gradients",
    "Statistics",
    "apply",
    "backward",
    "merge",
    "normalize",
    "normalize_and_count",
    "reuse_memory",
    "statistics",
    "use",
]

reuse_memory_if_asked()
