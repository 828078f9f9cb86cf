"""Which way of keeping freed memory a benchmark runs under; the same for all that it compares."""

from __future__ import annotations

import ctypes
import platform

from gammabeta.names import known

ALLOCATORS = ("reuse", "default")

# glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


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
    return "reuse" if name == "reuse" and _reuse_memory() else "default"


def _reuse_memory() -> bool:
    """Have glibc keep all freed memory; whether it could be done."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in settings)
