"""Where a record is: paths as a person gives them, and the errors about them."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIX = ".sqlite"


class RecordError(ValueError):
    """A record cannot be written or read; the message gives the reason and the remedy."""


class RecordExistsError(RecordError):
    """The file that a new record would create already exists."""


def file_path(argument: str, value: str | os.PathLike[str]) -> Path:
    """Return ``value`` as a path, with a leading ``~`` expanded to the home folder.

    Args:
        argument: name of the argument, for error messages.
        value: the path.

    Raises:
        RecordError: ``value`` names no file, or its ``~`` cannot be expanded.
        TypeError: ``value`` is not a path.

    Example:
        >>> file_path("path", "~/runs").is_absolute()
        True
    """
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{argument} is a {type(value).__name__}; give the path of a file")
    text = os.fspath(value)
    if not text or "\0" in text:
        raise RecordError(f"{argument}={text!r} names no file; give one, such as runs/first")
    try:
        return Path(text).expanduser()
    except RuntimeError as e:
        raise RecordError(f"{argument}={text!r} names no home folder; give the full path") from e


def record_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path`` as the path of a record: append ``.sqlite`` unless it already ends with it.

    A leading ``~`` is expanded to the home folder.

    Raises:
        RecordError: ``path`` names no file.
        TypeError: ``path`` is not a path.

    Example:
        >>> record_path("runs/v1.5").name
        'v1.5.sqlite'
    """
    path = file_path("path", path)
    if not path.name:
        raise RecordError(f"'{path}' names no file; give one, such as runs/first{SUFFIX}")
    return path if path.suffix == SUFFIX else path.with_name(path.name + SUFFIX)
