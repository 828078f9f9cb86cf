"""A rule: what it looks for, and when. `RULES` finds all of them.

A rule is a file in `gammabeta.doctor.rules` (or in a package of yours, see `entry_points`) with one
function or class under one of the decorators here. The docstring of the file is the page that
``gammabeta doctor --explain`` and the documentation show.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, TypeVar

Kind = Literal["static", "batches", "training", "graph"]

ENTRY_POINTS = "gammabeta.rules"
"""The group of entry points under which a package names modules that hold rules."""

_CODE = re.compile(r"[A-Z]{2,5}[0-9]{3}")
_Check = TypeVar("_Check", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rule:
    """What one kind of fault is called, and how it is found.

    Attributes:
        code: stable code, such as ``"GB101"``.
        name: a few words with hyphens, such as ``"frozen-affine"``.
        title: one sentence that says what is wrong.
        kind: when it is checked: ``"static"``, on a model alone; ``"batches"``, on batches;
            ``"training"``, while a model trains; ``"graph"``, on an exported or traced graph.
        check: ``check(subject)`` for static and graph rules, ``check(subject, evidence)`` for rules
            on batches; each yields findings. For training rules, a class: see
            `gammabeta.doctor.TrainingRule`.
        module: name of the Python module it is defined in.
    """

    code: str
    name: str
    title: str
    kind: Kind
    check: Callable[..., Any]
    module: str

    @property
    def page(self) -> str:
        """The text that explains the rule: the docstring of its file."""
        return (sys.modules[self.module].__doc__ or self.title).strip()


class Registry:
    """All rules by code, gammabeta's own and those of other packages.

    Attributes:
        failed: why a package's rules could not be loaded: name of the entry point → reason.
    """

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._loaded = False
        self.failed: dict[str, str] = {}

    def add(self, rule: Rule) -> None:
        """Add ``rule``.

        Raises:
            ValueError: the code is not well formed, or another rule has it.
        """
        if not _CODE.fullmatch(rule.code):
            raise ValueError(f"code={rule.code!r} must be capitals and three digits, as 'XY101'")
        known = self._rules.get(rule.code)
        if known is not None and known.module != rule.module:
            raise ValueError(f"code={rule.code!r} is that of {known.name} in {known.module}")
        self._rules[rule.code] = rule

    def __iter__(self) -> Iterator[Rule]:
        self._load()
        return iter([self._rules[code] for code in sorted(self._rules)])

    def __getitem__(self, code: str) -> Rule:
        """Return the rule with ``code`` (or this name).

        Raises:
            ValueError: there is none.
        """
        for rule in self:
            if code.upper() == rule.code or code == rule.name:
                return rule
        raise ValueError(f"code={code!r} is no rule; {self._hint(code, 'a code such as GB103')}")

    def chosen(
        self,
        select: Iterable[str] | None = None,
        ignore: Iterable[str] | None = None,
        *,
        argument: str = "select",
    ) -> list[Rule]:
        """Return the rules whose code begins with one of ``select`` and with none of ``ignore``.

        Args:
            select: codes, beginnings of codes (``"GB1"``) or names; None for all.
            ignore: likewise; None for none.
            argument: what a person calls the first, for messages.

        Raises:
            ValueError: one of them matches no rule.
            TypeError: one of them is no text.
        """
        wanted = list(self) if select is None else self._matching(argument, select)
        refused = [] if ignore is None else self._matching("ignore", ignore)
        return [rule for rule in wanted if rule not in refused]

    def _matching(self, argument: str, patterns: Iterable[str]) -> list[Rule]:
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        found: list[Rule] = []
        for each in patterns:
            if not isinstance(each, str):
                raise TypeError(f"{argument} holds {each!r}, which is no text; give codes: 'GB101'")
            hits = [r for r in self if each and (r.code.startswith(each.upper()) or r.name == each)]
            if not hits:
                form = "a code such as GB103, its beginning such as GB1"
                raise ValueError(f"{argument}={each!r} matches no rule; {self._hint(each, form)}")
            found += hits
        return [rule for rule in self if rule in found]

    def _hint(self, wrong: str, forms: str) -> str:
        names = [name for rule in self for name in (rule.name, rule.code)]
        near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.7)
        meant = f"did you mean {near[0]!r}? Give" if near else "give"
        return f"{meant} {forms} or a name such as momentum (gammabeta doctor --list shows all)"

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        rules = importlib.import_module("gammabeta.doctor.rules")
        for module in pkgutil.iter_modules(rules.__path__):
            importlib.import_module(f"{rules.__name__}.{module.name}")
        for entry in metadata.entry_points(group=ENTRY_POINTS):
            try:
                entry.load()
            except (Exception, SystemExit) as error:  # a stranger's package must not end it all
                self.failed[entry.name] = f"{type(error).__name__}: {error}"


RULES = Registry()
"""The rules of this process."""


def _decorator(kind: Kind, code: str, name: str, title: str) -> Callable[[_Check], _Check]:
    def add(check: _Check) -> _Check:
        RULES.add(Rule(code, name, title, kind, check, check.__module__))
        return check

    return add


def static(code: str, name: str, title: str) -> Callable[[_Check], _Check]:
    """Decorate ``check(subject)``, which looks at a model alone and yields findings."""
    return _decorator("static", code, name, title)


def on_batches(code: str, name: str, title: str) -> Callable[[_Check], _Check]:
    """Decorate ``check(subject, evidence)``, which looks at forward passes on batches."""
    return _decorator("batches", code, name, title)


def while_training(code: str, name: str, title: str) -> Callable[[_Check], _Check]:
    """Decorate a class of `gammabeta.doctor.TrainingRule`; each run makes one of it."""
    return _decorator("training", code, name, title)


def on_graphs(code: str, name: str, title: str) -> Callable[[_Check], _Check]:
    """Decorate ``check(subject)``, which looks at ``subject.graphs``."""
    return _decorator("graph", code, name, title)
