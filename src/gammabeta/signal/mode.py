"""The function mode of a watched pass: it is entered and left, and shows functions to a capture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode,
    _pop_mode,
    _push_mode,
)

from gammabeta.signal import functions, uncompiled

if TYPE_CHECKING:
    from gammabeta.signal.capture import Capture

_DISPATCH = 1.5e-6
"""Seconds that a function mode adds to a call, beside what is measured."""

_SHOWN = (
    functions.PASSED_THROUGH
    | functions.ACTIVATIONS
    | functions.SUMS
    | functions.PRODUCTS
    | set(functions.PRODUCERS)
    | set(functions.NORM_FUNCTIONS)
    | {functions.SOFTMAX, functions.ATTENTION}
)


class Mode(TorchFunctionMode):
    """Show each function to a `Capture` after it has been computed."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self._capture = capture
        self._on = False
        self._leave_compiled: Callable[[], None] = lambda: None

    def enter(self) -> None:
        """Begin to see functions, if it does not already."""
        if not self._on:
            self._on = True
            self._leave_compiled = uncompiled.enter(self)
            self.__enter__()  # type: ignore[no-untyped-call]

    def leave(self) -> None:
        """Stop seeing functions, if it does."""
        if not self._on:
            return
        self._on = False
        self._leave_compiled()
        above: list[TorchFunctionMode] = []  # modes that forward has entered and not left
        while (top := _get_current_function_mode()) is not None and top is not self:  # type: ignore[no-untyped-call]
            above.append(_pop_mode())  # type: ignore[no-untyped-call]
        if top is self:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        for mode in reversed(above):
            _push_mode(mode)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        try:
            output = func(*args, **kwargs)
            capture = self._capture
            capture.seconds += _DISPATCH
            if self._on and getattr(func, "__name__", "").strip("_") in _SHOWN:
                capture.guarded(capture.function, func, args, kwargs, output)
            return output
        except KeyboardInterrupt:  # torch does not call hooks for it
            self._capture.detach()
            raise
