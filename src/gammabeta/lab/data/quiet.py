"""Pillow's warnings kept away while pictures are read, in however many threads."""

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

    `warnings.catch_warnings` is for one thread: of two, the one that leaves last would put back the
    other's filters, for good. Here the last one that leaves takes away what was added.
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
