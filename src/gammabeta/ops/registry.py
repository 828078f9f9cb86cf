"""Who computes a norm: the backends, in the order in which they are asked.

A backend is a module, the ``__init__`` of a folder beside this file. It offers four functions, each
of which returns None for a call that it does not support:

``forward(call)``
    the whole norm, with a graph if one is wanted, in as few passes as the backend can.
``statistics(call)``
    μ and σ² of x.
``apply(call, statistics)``
    the output, by statistics that may be those of other values than x.
``backward(call, statistics, g, reduce)``
    the gradients. ``reduce`` is called with the sums that the gradient of x needs, and returns
    them for all values that ``statistics`` were taken over.

Between the last three there is room for a reduction over ranks. Kernels for another device are one
more folder, and one more entry in `BACKENDS` and in `ORDER`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from gammabeta.ops import cpu, lean, operators, reference, torch
from gammabeta.ops.spec import Call, Gradients, Statistics

Reduce = Callable[[Tensor], Tensor]


class Backend(Protocol):
    """What a backend offers."""

    def forward(self, call: Call, /) -> Tensor | None:
        """Return the output, with a graph."""

    def statistics(self, call: Call, /) -> Statistics | None:
        """Return μ and σ² of x."""

    def apply(self, call: Call, statistics: Statistics, /) -> Tensor | None:
        """Return the output by given statistics."""

    def backward(
        self, call: Call, statistics: Statistics, g: Tensor, reduce: Reduce | None, /
    ) -> Gradients | None:
        """Return the gradients of what ``apply`` was given."""


BACKENDS: dict[str, Backend] = {"cpu": cpu, "torch": torch, "reference": reference}
"""All backends by name."""

ORDER: tuple[Backend, ...] = (cpu, torch)
"""The first that supports a call computes it; torch supports every call."""


evaluate = cpu.evaluate
"""Batch norm by fixed statistics where torch's operator is to compute it; None elsewhere.

A network in evaluation calls this for each of its norms, and to look for a backend would take
longer than a small one."""


def normalize(call: Call) -> Tensor:
    """Return ``activation(norm(x) + residual)``, with a graph if one is wanted.

    Raises:
        RuntimeError: the storage of a tensor was freed.
        ValueError: unknown activation. Torch's own functions raise their own errors.
    """
    if lean.is_open(call.x) or lean.is_open(call.residual):
        y: Tensor = lean.run(lambda *_: normalize(call), (call.x, call.residual), {})
        return y
    found = operators.forward(call)
    if found is not None:
        return found
    for backend in ORDER:
        found = backend.forward(call)
        if found is not None:
            return found
    raise NotImplementedError(f"no backend supports {call.kind} norm")


def normalize_and_count(call: Call) -> Tensor | None:
    """Return the output by a backend that averages, guards and counts the batch by itself.

    Then ``call.entered`` says whether the batch entered the running statistics. Elsewhere, such as
    under `torch.compile`, the caller has to: the answer is None, and nothing was changed.
    """
    if lean.is_open(call.x) or lean.is_open(call.residual):
        y: Tensor | None = lean.run(
            lambda *_: normalize_and_count(call), (call.x, call.residual), {}
        )
        return y
    return cpu.forward(call)


def statistics(call: Call) -> Statistics:
    """Return μ and σ² of the call's x, without a graph."""
    found: Statistics = _first("statistics", call)
    return found


def apply(call: Call, statistics: Statistics) -> Tensor:
    """Return the output of the call by ``statistics``, without a graph."""
    y: Tensor = _first("apply", call, statistics)
    return y


def backward(
    call: Call, statistics: Statistics, g: Tensor, reduce: Reduce | None = None
) -> Gradients:
    """Return the gradients of a call that `apply` computed by ``statistics``.

    Args:
        call: as `apply` was given it.
        statistics: likewise.
        g: the gradient of the output.
        reduce: adds up sums over everything that ``statistics`` were taken over, such as an
            all-reduce; None if that is x alone.
    """
    found: Gradients = _first("backward", call, statistics, g, reduce)
    return found


def _first(phase: str, call: Call, *arguments: Any) -> Any:
    for backend in ORDER:
        found = getattr(backend, phase)(call, *arguments)
        if found is not None:
            return found
    raise NotImplementedError(f"no backend supports the {phase} of {call.kind} norm")
