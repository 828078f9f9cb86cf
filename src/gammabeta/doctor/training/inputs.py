"""The inputs of the calls of a model, without keeping them alive."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gammabeta.doctor.training.passes import tensors_of

_CALLS, _TENSORS = 32, 4
"""Most calls of a step, and tensors of a call, that are remembered."""


class Inputs:
    """Remembers which tensors went into a model.

    Attributes:
        examples: number of examples in the calls that are remembered, with gradients on.
    """

    def __init__(self) -> None:
        self.examples = 0
        self._last: weakref.ref[Tensor] | None = None
        self._version = -1
        self._number = 0
        self._seen: list[weakref.ref[Tensor]] = []

    def source(self, x: Tensor | None) -> tuple[object, ...] | None:
        """Return what is equal if the call before had the same tensor; None without one.

        A tensor that was refilled in place is another input: its version has changed. Inference
        tensors have no version.
        """
        if x is None:
            return None
        version = -1 if x.is_inference() else x._version
        same = self._last is not None and self._last() is x
        if not same or version != self._version:
            self._last, self._version = weakref.ref(x), version
            self._number += 1
        return (self._number,)

    def begin(self) -> None:
        """Forget the step before."""
        if self._seen:
            self._seen = []
        self.examples = 0

    def remember(self, args: Any, kwargs: Any) -> None:
        """Remember the tensors of a call, as long as they live."""
        if len(self._seen) > _CALLS * _TENSORS:
            return
        before = len(self._seen)
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                self._seen.append(weakref.ref(x))
            elif isinstance(x, (Mapping, list, tuple)):
                self._seen += map(weakref.ref, tensors_of(x, _TENSORS))
        if torch.is_grad_enabled() and len(self._seen) > before:
            first = self._seen[before]()
            self.examples += int(first.shape[0]) if first is not None and first.dim() else 0

    def are_finite(self) -> bool | None:
        """Whether the remembered tensors that still live are finite; None if none does."""
        live = [x for ref in self._seen if (x := ref()) is not None and x.is_floating_point()]
        if not live:
            return None
        return all(bool(torch.isfinite(x.detach()).all()) for x in live)
