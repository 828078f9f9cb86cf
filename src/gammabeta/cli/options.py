"""The options of a command: one dataclass, from which its command line is made.

Each field is an option: its name, type and default are the option's, and the `Option` in its
annotation holds the rest. The command is a function of one such object.

Example:
    >>> app = typer.Typer()
    >>> @dataclass
    ... class Greeting(Options):
    ...     times: Annotated[int, Option("Number of greetings.")] = 1
    >>> @command(app)
    ... def greet(options: Greeting) -> None:
    ...     print("hello " * options.times, options.given())
    >>> app(["--times=2"], standalone_mode=False)
    hello hello  {'times': 2}
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from gammabeta.cli.parse import number, path, whole

_PARSERS: dict[type, Callable[[str], Any]] = {int: whole, float: number, Path: path}
_METAVARS = {int: "COUNT", float: "NUMBER"}


@dataclass(frozen=True)
class Option:
    """What the help of an option says.

    Attributes:
        help: a sentence.
        panel: the heading that it is listed under.
        name: ``"--open/--no-open"``; by default the field's (``batch_size``: ``--batch-size``).
        metavar: stands for the value; by default it is chosen by the field's type.
        shown: what is shown in place of the default value; False shows nothing.
        positional: whether it is an argument without a name.
    """

    help: str
    panel: str | None = None
    name: str = ""
    metavar: str | None = None
    shown: str | bool = True
    positional: bool = False


class Options:
    """Base of the dataclasses that hold a command's options."""

    _given: frozenset[str] = frozenset()

    def given(self, of: type | None = None) -> dict[str, Any]:
        """Return the options that the command line names: field → value.

        Args:
            of: a dataclass; only options that share a name with one of its fields are returned.
        """
        names = [field.name for field in dataclasses.fields(of or type(self))]
        return {name: getattr(self, name) for name in names if name in self._given}


_Made = TypeVar("_Made", bound=Options)
_Command = Callable[[_Made], None]


def command(
    app: typer.Typer, name: str | None = None
) -> Callable[[_Command[_Made]], _Command[_Made]]:
    """Return a decorator that adds a function of one `Options` to ``app``.

    Args:
        app: the commands it joins.
        name: of the command; by default the function's.
    """

    def add(function: _Command[_Made]) -> _Command[_Made]:
        app.command(name)(_with_parameters(function))
        return function

    return add


def _with_parameters(function: _Command[_Made]) -> Callable[..., None]:
    """Return ``function`` with a parameter for each field of its options, as Typer reads them."""
    (parameter,) = inspect.signature(function, eval_str=True).parameters.values()
    kind: type[_Made] = parameter.annotation
    hints = get_type_hints(kind, include_extras=True)

    @functools.wraps(function)
    def command(context: typer.Context, **values: Any) -> None:
        options = kind(**values)
        sources = {name: context.get_parameter_source(name) for name in values}
        options._given = frozenset(n for n, s in sources.items() if s and s.name != "DEFAULT")
        function(options)

    made = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        missing = field.default is dataclasses.MISSING
        made.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if missing else field.default,
                annotation=_typers(field.name, hints[field.name]),
            )
        )
    command.__signature__ = inspect.Signature(made)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in made}
    return command


def _typers(name: str, hint: Any) -> Any:
    """Return the annotation ``hint`` of the field ``name`` with Typer's own option in it."""
    of, option = get_args(hint)
    plain = next((t for t in get_args(of) if t is not type(None)), of)  # X | None, list[X]
    settings: dict[str, Any] = {
        "help": option.help,
        "metavar": option.metavar or _METAVARS.get(plain),
        "rich_help_panel": option.panel,
        "show_default": option.shown,
        "parser": _PARSERS.get(plain),
    }
    if option.positional:
        return Annotated[of, typer.Argument(**settings)]
    named = option.name or "--" + name.replace("_", "-")  # a flag has no --no- unless it says so
    return Annotated[of, typer.Option(named, **settings)]
