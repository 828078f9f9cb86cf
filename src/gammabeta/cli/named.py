"""Objects that a command line names as ``package.module:attribute``, and what they return."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from torch import nn

from gammabeta.doctor.evidence import TRAINED
from gammabeta.names import known


def load(argument: str, text: str) -> Any:
    """Import what ``text`` names; the working directory is on the path. Prints go to stderr.

    Args:
        argument: what the command line calls it, for messages.
        text: ``"package.module:attribute"``; the attribute may have dots.

    Raises:
        ValueError: the text has another form; the module or the attribute is not there, or the
            import raises.
    """
    name, colon, attributes = text.partition(":")
    dotted = [*name.split("."), *attributes.split(".")]
    if not colon or not all(part.isidentifier() for part in dotted):
        such = _meant(text) or "train:make_model"
        raise ValueError(f"{argument}={text!r} must be package.module:name, such as {such}")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            value: Any = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            meant = f"did you mean {_meant(text)}? Else " if _meant(text) else ""
            raise ValueError(
                f"{argument}={text!r}: there is no module {error.name!r} in {folder} or on "
                f"PYTHONPATH; {meant}run the command in the folder that holds it, or install it"
            ) from error
        raise ValueError(f"{argument}={text!r}: importing {name} raised {line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{argument}={text!r}: importing {name} raised {line(error)}; "
            "a module must be importable without running its script"
        ) from error
    for part in attributes.split("."):
        if not hasattr(value, part):
            public = [
                each
                for each, its in vars(value).items()
                if not each.startswith("_") and not inspect.ismodule(its)
            ]
            if not public:
                raise ValueError(f"{argument}={text!r}: {name} defines nothing")
            known(f"{argument}={text!r}: name", part, public)
        value = getattr(value, part)
    return value


def made(argument: str, text: str, what: str) -> Any:
    """Load ``text`` and call it without arguments.

    Args:
        argument: what the command line calls it.
        text: see `load`.
        what: what it should return, for messages: ``"the model"``.

    Raises:
        ValueError: see `load`; or it cannot be called, needs arguments, or raises.
    """
    factory = load(argument, text)
    if not callable(factory):
        raise ValueError(
            f"{argument}={text!r} is {_kind(factory)}; name a function that returns {what}"
        )
    needed = _needed(factory)
    if needed:
        raise ValueError(
            f"{argument}={text!r} needs the argument{'s' * (len(needed) > 1)} "
            f"{', '.join(needed)}; name a function without arguments that returns {what}"
        )
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return factory()
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{argument}={text!r} raised {line(error)}; it must return {what} when it is called "
            "without arguments"
        ) from error


def model_of(text: str) -> Any:
    """Return the model that ``text`` names: a factory, a class, or a model itself.

    Raises:
        ValueError: there is none.
    """
    named = load("factory", text)
    model = named if _is_model(named) else made("factory", text, "the model")
    if not _is_model(model):
        raise ValueError(
            f"factory={text!r} returned {_kind(model)}; it must return a torch.nn.Module"
        )
    return model


def batches_of(text: str) -> Callable[[], Any]:
    """Return a function that gives the batches which ``text`` names, as often as it is called.

    Raises:
        ValueError: they are no iterable.
    """
    named = load("batches", text)
    fixed = hasattr(named, "__iter__") and not isinstance(named, type)
    first = named if fixed else made("batches", text, "the batches")
    if not hasattr(first, "__iter__") and not hasattr(first, "__getitem__"):
        raise ValueError(
            f"batches={text!r} returned {_kind(first)}; it must return an iterable of "
            "batches, such as a DataLoader"
        )
    if not hasattr(first, "__next__"):
        return lambda: first
    if not fixed:  # a generator: a new one each time
        return lambda: made("batches", text, "the batches")
    few = list(islice(first, TRAINED + 1))
    return lambda: few


def loss_of(text: str) -> Callable[..., Any]:
    """Return the loss function that ``text`` names; a class such as CrossEntropyLoss is called.

    Raises:
        ValueError: it cannot be called.
    """
    named = load("loss", text)
    if isinstance(named, type):
        named = made("loss", text, "the loss")
    if not callable(named):
        raise ValueError(f"loss={text!r} is {_kind(named)}; name a function of output and target")
    return named  # type: ignore[no-any-return]


def place_of(text: str) -> tuple[str, int]:
    """Return file and line of what ``text`` names; ``("", 1)`` if they cannot be found.

    The file is relative to the working directory if it is in it.
    """
    value = inspect.unwrap(load("factory", text))
    value = getattr(value, "func", value)
    if not (inspect.isfunction(value) or inspect.ismethod(value) or isinstance(value, type)):
        value = sys.modules[text.partition(":")[0]]
    try:
        file = Path(inspect.getsourcefile(value) or "")
        at = max(1, inspect.getsourcelines(value)[1])
    except (OSError, TypeError):
        return "", 1
    with contextlib.suppress(ValueError):
        file = file.resolve().relative_to(Path.cwd().resolve())
    return file.as_posix(), at


def line(error: BaseException) -> str:
    """Return an error as one line.

    Example:
        >>> line(KeyError("x"))
        "KeyError: 'x'"
    """
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _meant(text: str) -> str:
    """Return what a path of a file, or a name with a dot for the colon, may mean; or ``""``.

    Example:
        >>> _meant("./nets/cnn.py:make"), _meant("nets.cnn.make"), _meant("nets.cnn:make")
        ('nets.cnn:make', 'nets.cnn:make', '')
    """
    name, colon, attribute = text.partition(":")
    if not colon and not name.endswith(".py") and "/" not in name:
        name, _, attribute = name.rpartition(".")
    name = name.removesuffix(".py").removeprefix("./").replace("/", ".")
    parts = (*name.split("."), *(attribute or "make_model").split("."))
    found = f"{name}:{attribute or 'make_model'}"
    return found if all(map(str.isidentifier, parts)) and found != text else ""


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _is_model(value: Any) -> bool:
    return isinstance(value, nn.Module) or type(value).__name__ == "ExportedProgram"


def _needed(factory: Callable[..., Any]) -> list[str]:
    """Return the names of the parameters without a default."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # built in
        return []
    plain = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in plain]
