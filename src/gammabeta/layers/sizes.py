"""Sizes that a layer is made with."""

from __future__ import annotations

from typing import SupportsIndex


def check_size(argument: str, value: object, what: str) -> None:
    """Raise unless ``value`` is a whole number of at least 1.

    Args:
        argument: what the person calls it.
        value: what the person gave.
        what: what it is, for the message.

    Raises:
        ValueError: it is not.

    Example:
        >>> check_size("num_features", 0, "the number of channels")
        Traceback (most recent call last):
        ...
        ValueError: num_features=0: give the number of channels, a whole number, 1 or more
    """
    if not isinstance(value, SupportsIndex) or value.__index__() < 1:
        raise ValueError(f"{argument}={value!r}: give {what}, a whole number, 1 or more")
