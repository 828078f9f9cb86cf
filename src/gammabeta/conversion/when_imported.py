"""Do something with a module of another package once it has been imported."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _Imported(MetaPathFinder):
    """Calls a function once a module has been imported; finds nothing else."""

    def __init__(self, name: str, then: Callable[[ModuleType], object]) -> None:
        self.name, self.then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        with contextlib.suppress(ValueError):  # another thread imports it, too
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def load_and_call(module: ModuleType) -> None:
            load(module)
            self.then(module)

        spec.loader.exec_module = load_and_call  # type: ignore[method-assign]
        return spec


def when_imported(name: str, then: Callable[[ModuleType], object]) -> None:
    """Call ``then`` with the module ``name``: now, if it is imported already, or when it is.

    Args:
        name: a module's full name. It is not imported.
        then: called with the module; must not raise.

    Example:
        >>> when_imported("sys", lambda module: print(module.__name__))
        sys
    """
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Imported(name, then))
