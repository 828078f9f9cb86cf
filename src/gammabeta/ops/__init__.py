"""The single entry point to the computation of all norms.

A layer describes a computation as a `Call`, passes it to `normalize` and depends on nothing else.
`registry` selects a backend: the native kernels of `cpu`, or `torch`'s operators, which support
every call. `reference` is the oracle that both are tested against. `operators` registers the norms
with `torch.library`.
"""

from gammabeta.ops.allocator import reuse_memory, reuse_memory_if_asked
from gammabeta.ops.cpu.library import use
from gammabeta.ops.registry import (
    BACKENDS,
    apply,
    backward,
    evaluate,
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
    "evaluate",
    "merge",
    "normalize",
    "normalize_and_count",
    "reuse_memory",
    "statistics",
    "use",
]

reuse_memory_if_asked()
