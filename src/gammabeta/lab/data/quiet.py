"""Suppress Pillow's warnings while pictures are read, in any number of threads."""

from __future__ import annotations

import contextlib
import re
import threading
import warnings
from collections.abc import Iterator
from typing import Any, cast

_PILLOW = r"PIL\."
_FILTER = ("ignore", None, Warning, re.compile(_PILLOW), 0)
_lock = threading.Lock()
_inside = 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings from being printed, or raised as errors.

    `warnings.catch_warnings` is not thread-safe: of two threads, the last one to leave would
    permanently restore the other's filters. Here the last thread to leave removes the filter.
    """
    global _inside
    with _lock:
        _inside += 1
        if _FILTER not in warnings.filters:  # somebody else may have put back older ones
            warnings.filterwarnings("ignore", module=_PILLOW)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                with contextlib.suppress(ValueError):
                    cast("list[Any]", warnings.filters).remove(_FILTER)
