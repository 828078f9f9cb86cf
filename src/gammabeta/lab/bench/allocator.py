"""Which way of keeping freed memory a benchmark runs under; the same for all that it compares."""

from __future__ import annotations

from gammabeta.names import known
from gammabeta.ops import reuse_memory

ALLOCATORS = ("reuse", "default")


def set_allocator(name: str) -> str:
    """Set how this process' C library treats freed memory, for the rest of the process.

    glibc gives large blocks back to the kernel at each free, and every page of the next one costs
    a fault: for large tensors more than the arithmetic. ``"reuse"`` keeps them instead, as a
    long-running training with a caching allocator would have it.

    Args:
        name: ``"reuse"`` or ``"default"``, the C library as it is.

    Returns:
        The name of what is in effect: ``"default"`` too where the C library is not glibc.

    Raises:
        ValueError: ``name`` is neither.

    Example:
        >>> set_allocator("default")
        'default'
    """
    known("allocator", name, ALLOCATORS)
    return "reuse" if name == "reuse" and reuse_memory() else "default"
