"""Gradients that were there before a run, and that nobody has computed since."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Stale:
    """Tells old gradients of norms from those of the run.

    Args:
        norms: path → norm.
    """

    def __init__(self, norms: Mapping[str, Any]) -> None:
        self._then: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        for path, norm in norms.items():
            gamma = norm._parameters.get("weight")
            if gamma is not None and not gamma.is_inference() and gamma.grad is not None:
                self._then[path] = weakref.ref(gamma.grad), gamma.grad._version

    def has(self, path: str, gradient: Tensor) -> bool:
        """Whether ``gradient`` is that of before the run: no backward pass has reached it."""
        if path not in self._then:
            return False
        then, version = self._then[path]
        if then() is gradient and gradient._version == version:
            return True
        del self._then[path]
        return False
