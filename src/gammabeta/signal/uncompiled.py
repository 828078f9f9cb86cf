"""What compiled code does while a function mode is on: it runs without the mode, or uncompiled.

Dynamo compiles the modes that are on along with a function; ours cannot be compiled, and would be
noticed by a guard. A compiled function that a module calls is therefore run without the mode. For
that, two functions are wrapped that dynamo calls at the beginning and at the end of each compiled
call, while a mode is on. If dynamo does not have them, compiled code runs uncompiled instead.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode, _push_mode

_BEGINS, _SETS = "_callback_from_stance", "_maybe_set_eval_frame"

_depth = 0
_stance: contextlib.AbstractContextManager[object] | None = None


def hold() -> None:
    """Let what `torch.compile` has compiled run uncompiled, until as many calls of `release`."""
    global _depth, _stance
    _depth += 1
    if _depth == 1:
        _stance = torch.compiler.set_stance("force_eager")


def release() -> None:
    """End one `hold`."""
    global _depth, _stance
    _depth -= 1
    if _depth == 0 and _stance is not None:
        _stance.__exit__(None, None, None)
        _stance = None


class _Call(threading.local):
    """The compiled calls of one thread: modes belong to threads, too."""

    def __init__(self) -> None:
        self.beginning = False
        self.compiles = False
        self.left: list[list[TorchFunctionMode]] = []


class _Gate:
    """The two functions of dynamo while modes are on."""

    def __init__(self, dynamo: Any) -> None:
        self._dynamo = dynamo
        self._begins: Callable[..., Any] = getattr(dynamo, _BEGINS)
        self._sets: Callable[..., Any] = getattr(dynamo, _SETS)
        self._modes: list[TorchFunctionMode] = []
        self._call = _Call()

    def add(self, mode: TorchFunctionMode) -> None:
        if not self._modes:
            setattr(self._dynamo, _BEGINS, self._begin)
            setattr(self._dynamo, _SETS, self._set)
        self._modes.append(mode)

    def remove(self, mode: TorchFunctionMode) -> None:
        self._modes.remove(mode)
        if not self._modes:
            setattr(self._dynamo, _BEGINS, self._begins)
            setattr(self._dynamo, _SETS, self._sets)

    def _begin(self, callback: Any, *args: Any, **kwargs: Any) -> Any:
        self._call.beginning = True
        self._call.compiles = callable(callback)  # not where compiling is only switched off
        return self._begins(callback, *args, **kwargs)

    def _set(self, *args: Any, **kwargs: Any) -> Any:
        call = self._call
        if call.beginning:  # a compiled call begins
            call.beginning = False
            hidden = call.compiles and not _depth  # code that is held uncompiled is seen
            left: list[TorchFunctionMode] = []
            while hidden and any(_get_current_function_mode() is mode for mode in self._modes):  # type: ignore[no-untyped-call]
                left.append(_pop_mode())  # type: ignore[no-untyped-call]
            call.left.append(left)
            return self._sets(*args, **kwargs)
        result = self._sets(*args, **kwargs)
        if call.left:  # it has ended
            for mode in reversed(call.left.pop()):
                _push_mode(mode)  # type: ignore[no-untyped-call]
        return result


_gate: _Gate | None = None


def enter(mode: TorchFunctionMode) -> Callable[[], None]:
    """Let compiled functions run as if ``mode``, which is about to be entered, were not there.

    Returns:
        A function that ends this.
    """
    global _gate
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    if dynamo is None:  # nothing has been compiled in this process
        return lambda: None
    if _gate is None and all(hasattr(dynamo, name) for name in (_BEGINS, _SETS)):
        _gate = _Gate(dynamo)
    gate = _gate
    if gate is None:
        hold()
        return release
    gate.add(mode)
    return lambda: gate.remove(mode)


def choose(model: nn.Module, measured: Callable[[], bool]) -> Callable[[], None]:
    """Let a model that compiles its own calls run those that are measured uncompiled.

    Args:
        model: the model, in place.
        measured: whether the next call in training mode is measured.

    Returns:
        A function that undoes it.
    """
    compiled = vars(model)["_compiled_call_impl"]

    def call(*args: Any, **kwargs: Any) -> Any:
        how: Any = model._call_impl if model.training and measured() else compiled
        return how(*args, **kwargs)

    vars(model)["_compiled_call_impl"] = call
    return lambda: vars(model).__setitem__("_compiled_call_impl", compiled)
