"""Each option is declared once, in its command's dataclass: explained, and read into its field."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
import typer

from gammabeta.cli import app
from gammabeta.cli.options import Options, command


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Name → command, of all there are and the groups they are in."""
    yield name or "gammabeta", group
    for each, inner in getattr(group, "commands", {}).items():
        yield from commands(inner, f"{name} {each}".strip())


COMMANDS = dict(commands(typer.main.get_command(app)))


def options_of(name: str) -> type[Options] | None:
    """The dataclass of a command; None for a group, and for a command without options."""
    function = inspect.unwrap(COMMANDS[name].callback or (lambda: None))
    parameters = inspect.signature(function, eval_str=True).parameters
    if hasattr(COMMANDS[name], "commands") or not parameters:
        return None
    (parameter,) = parameters.values()
    assert issubclass(parameter.annotation, Options)
    return parameter.annotation


DECLARED = {name: kind for name in COMMANDS if (kind := options_of(name))}


def received(kind: type[Options], *args: str) -> Options:
    """What a command with these options is given for a command line."""
    got: list[Options] = []

    def take(options: Options) -> None:
        got.append(options)

    take.__annotations__["options"] = kind
    own = typer.Typer()
    command(own)(take)
    own(list(args), standalone_mode=False)
    (options,) = got
    return options


TEXTS = {int: ("7", 7), float: ("0.75", 0.75), str: ("x", "x"), Path: ("x", Path("x"))}


def lines(parameter: Any, of: Any) -> list[tuple[list[str], Any]]:
    """Command lines that give an option of type ``of``: the words, and what they stand for."""
    plain = next((each for each in get_args(of) if each is not NoneType), of)
    if plain is bool:
        return [
            ([word], word in parameter.opts) for word in parameter.opts + parameter.secondary_opts
        ]
    if get_origin(plain) is list:
        return [([text], [value]) for text, value in [TEXTS[get_args(plain)[0]]]]
    text, value = TEXTS[plain]
    if get_origin(of) is list:
        value = [value]
    if parameter.param_type_name == "argument":
        return [([text], value)]
    return [([word, text], value) for word in parameter.opts]


def test_there_are_commands_with_and_without_options() -> None:
    assert {"demo", "view", "train", "evaluate", "reproduce", "bench norm"} <= set(DECLARED)
    assert set(COMMANDS) - set(DECLARED) == {"gammabeta", "bench", "info"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_is_explained(name: str) -> None:
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        assert (parameter.help or "").endswith("."), parameter.name


@pytest.mark.parametrize("name", DECLARED)
def test_each_field_is_set_by_its_own_option_and_by_no_other(name: str) -> None:
    kind = DECLARED[name]
    parameters = {p.name: p for p in COMMANDS[name].params if p.name != "help"}
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    assert list(parameters) == [field.name for field in fields]
    types = get_type_hints(kind)
    needed = [f.name for f in fields if f.default is dataclasses.MISSING]
    assert len(needed) <= 1
    for field in fields:
        for args, value in lines(parameters[field.name], types[field.name]):
            rest = ["x" for each in needed if each != field.name]
            options = received(kind, *args, *rest)
            assert options.given() == {**options.given(), field.name: value}
            assert set(options.given()) == {field.name, *needed}
            for other in fields:
                if other.name not in options.given():
                    assert getattr(options, other.name) == other.default, other.name


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_not_given_is_the_default(name: str) -> None:
    kind = DECLARED[name]
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    needed = ["x" for field in fields if field.default is dataclasses.MISSING]
    options = received(kind, *needed)
    assert len(options.given()) == len(needed)
    for field in fields:
        if field.default is not dataclasses.MISSING:
            value = getattr(options, field.name)
            assert (value, type(value)) == (field.default, type(field.default))
