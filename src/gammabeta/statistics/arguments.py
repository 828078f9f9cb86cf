"""Checks of arguments: a wrong one is refused by name, before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import SupportsIndex

from torch import Tensor, nn


def check_module(model: object) -> None:
    """Raise unless ``model`` is a module.

    Raises:
        TypeError: it is not; the message says what it is and what to give.

    Example:
        >>> check_module(5)
        Traceback (most recent call last):
        ...
        TypeError: model is of type int; give a torch.nn.Module, such as nn.Sequential(...)
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, type):
        raise TypeError(
            f"model is the class {model.__name__}; give an instance, such as {model.__name__}(...)"
        )
    raise TypeError(
        f"model is of type {type(model).__name__}; give a torch.nn.Module, such as "
        "nn.Sequential(...)"
    )


def check_batches(batches: object) -> None:
    """Raise unless one can iterate over ``batches``, and they are more than one tensor.

    Nothing is taken from ``batches``, and no iterator of them is made.
    """
    if isinstance(batches, (Tensor, str, bytes, Mapping)):
        raise TypeError(
            f"batches is one {type(batches).__name__}; it must be an iterable of batches, such as "
            "a DataLoader or [batch]"
        )
    iterable = isinstance(batches, Iterable) or hasattr(batches, "__getitem__")
    if isinstance(batches, type) or not iterable:
        kind = (
            f"the class {batches.__name__}"
            if isinstance(batches, type)
            else f"of type {type(batches).__name__}"
        )
        raise TypeError(
            f"batches is {kind}; it must be an iterable of batches, such as a DataLoader or [batch]"
        )


def check_callable(argument: str, value: object, what: str) -> None:
    """Raise unless ``value`` can be called or is None; ``what`` says what would do."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} is of type {type(value).__name__}; give {what}, or None")


def check_bool(argument: str, value: object, also: object = False) -> None:
    """Raise unless ``value`` is True, False or ``also``."""
    if not isinstance(value, bool) and value is not also:
        choices = "True or False" if also is False else f"True, False or {also}"
        raise TypeError(f"{argument}={value!r} is of type {type(value).__name__}; give {choices}")


def is_whole(value: object, least: int) -> bool:
    """Whether ``value`` is a whole number, ``least`` or more; a bool is none.

    Example:
        >>> is_whole(3, 1), is_whole(True, 1), is_whole(2.0, 1), is_whole("3", 1)
        (True, False, False, False)
    """
    if isinstance(value, (bool, Tensor)) or not isinstance(value, SupportsIndex):
        return False
    try:
        return value.__index__() >= least
    except TypeError:  # an array of several numbers
        return False
