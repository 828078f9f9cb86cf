"""Notes which backward passes reach the output of a call, and when they end."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gammabeta.doctor.training.passes import Passed, tensors_of

if TYPE_CHECKING:
    from gammabeta.doctor.training.clinic import Clinic


def follow(passed: Passed, output: Any, clinic: Clinic) -> bool:
    """Note which backward passes reach the output; return whether that can be known."""
    found = False
    for y in tensors_of(output):
        if y.requires_grad and y.grad_fn is not None:
            y.register_hook(_Reached(passed, clinic))  # type: ignore[no-untyped-call]
            found = True
    return found


class _Reached:
    """A hook on an output that notes the backward passes that reach it."""

    __torch_unserializable__ = True  # a saved output leaves it out, without a warning

    def __init__(self, passed: Passed, clinic: Clinic) -> None:
        self._passed = passed
        self._clinic = weakref.ref(clinic)

    def __call__(self, gradient: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        task = torch._C._current_graph_task_id()
        if task in self._passed.tasks:
            return
        self._passed.tasks.append(task)
        self._passed.backward += 1
        clinic = self._clinic()
        if clinic is not None and clinic.backward_begins(task):
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(_Ended(clinic))


class _Ended:
    """Called when a backward pass has ended."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = weakref.ref(clinic)

    def __call__(self) -> None:
        clinic = self._clinic()
        if clinic is not None:
            clinic.backward_ends()
