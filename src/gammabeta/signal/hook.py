"""A hook of a watch on a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Hook:
    """A hook on a model. In a copy of the model it does nothing."""

    def __init__(self, do: Callable[..., None] | None = None) -> None:
        self._do = do
        self.__name__ = "watch"  # torch.jit asks for it

    def __call__(self, *args: Any) -> None:
        """Do it."""
        if self._do is not None:
            self._do(*args)

    def __reduce__(self) -> tuple[Any, ...]:
        attendant = getattr(getattr(self._do, "__self__", None), "_attendant", None)
        if attendant is not None:
            attendant.copied()
        return Hook, ()
