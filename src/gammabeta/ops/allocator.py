"""Freed memory kept for the next tensor: a person's choice for the whole process.

glibc maps every large block afresh and unmaps it when it is freed. The kernel hands out zeroed
pages, one fault each, so that a fresh output of 100 MB costs more time than the layer that fills
it. Kept memory costs nothing to take again.

It is never done unasked: it is a property of the process, not of a layer, and memory that is kept
is not there for other processes.
"""

from __future__ import annotations

import ctypes
import os
import platform
import warnings

VARIABLE = "GAMMABETA_REUSE_MEMORY"
"""The environment variable that asks for `reuse_memory` when gammabeta is imported."""

# glibc's <malloc.h>.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = (
    (_M_MMAP_MAX, 0),  # no block gets a mapping of its own
    (_M_TRIM_THRESHOLD, -1),  # the heap's end is never given back; -1 is the largest size there is
    (_M_TOP_PAD, 64 << 20),  # and it grows by so much at least; untouched, that costs nothing
    # A thread's own arena takes no block above 64 MB, which would be mapped after all. (Small
    # blocks still come from each thread's cache.)
    (_M_ARENA_MAX, 1),
)


def reuse_memory() -> bool:
    """Have the C library keep all freed memory, for the rest of the process.

    For every library in it, not for torch alone. Call it before the first large tensor, and before
    threads are started. What it gives and what it costs: docs/memory.md.

    Returns:
        Whether it took effect. It does not where the C library is not glibc, nor where another
        allocator (jemalloc, tcmalloc) was put in its place: those keep memory by themselves.

    Example:
        >>> import gammabeta as gb
        >>> reused = gb.ops.reuse_memory()
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        loaded, own = ctypes.CDLL(None), ctypes.CDLL("libc.so.6")
        if _address(loaded.malloc) != _address(own.malloc):
            return False
        return all(own.mallopt(option, value) == 1 for option, value in _SETTINGS)
    except (OSError, AttributeError):  # no such library or function: not a usual glibc
        return False


def reuse_memory_if_asked() -> None:
    """Call `reuse_memory` if the environment says so: ``GAMMABETA_REUSE_MEMORY=1``.

    Warns:
        UserWarning: the variable is neither 0 nor 1, or memory cannot be reused here.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "0", "1"):
        warnings.warn(f"{VARIABLE}={asked!r} is neither 0 nor 1, so it is ignored", stacklevel=2)
    if asked == "1" and not reuse_memory():
        warnings.warn(
            f"{VARIABLE}=1 has no effect: this process does not use glibc's allocator", stacklevel=2
        )


def _address(function: object) -> int | None:
    return ctypes.cast(function, ctypes.c_void_p).value  # type: ignore[arg-type]
