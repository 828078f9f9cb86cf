"""Names a person may get wrong, and the one sentence that helps.

Every option that takes a name (an activation, a preset, a data set) is looked up here, so that
every unknown name is answered alike: the argument, the value, the nearest name, all the names.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def known(argument: str, value: object, names: Iterable[str]) -> str:
    """Return ``value`` if it is one of ``names``.

    Args:
        argument: what the person calls it (``"activation"``), for the message.
        value: what the person gave.
        names: the names that will do.

    Raises:
        ValueError: ``value`` is none of ``names``; the nearest one is offered.

    Example:
        >>> known("activation", "relu", ["relu", "tanh"])
        'relu'
        >>> known("activation", "rleu", ["relu", "tanh"])
        Traceback (most recent call last):
        ...
        ValueError: activation='rleu' is not known; did you mean 'relu'? Choices: relu, tanh
    """
    options = list(names)
    if isinstance(value, str) and value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? Choices" if near else "choices"
    raise ValueError(f"{argument}={value!r} is not known; {hint}: {', '.join(options)}")
