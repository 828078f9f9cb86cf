"""The scripts of `gammabeta bench doctor`: faults with their healthy twins, and healthy nets.

A fault is a Python file with the constants ``CODE`` (the rule that must find it), ``LAYER`` (a path
that must be among the finding's layers; ``""`` is the model as a whole) and ``FIX`` (a word of the
right fix), and one of the two functions:

- ``build(faulty)`` returns the arguments of `gammabeta.examine`;
- ``train(faulty, watch)`` trains; ``watch(model, optimizer=…)`` is a context manager as that of
  `gammabeta.watch`.

With ``faulty=False`` the same script is the healthy twin. A healthy net is a file with the function
``train(watch)``, which trains and returns the arguments of `gammabeta.examine`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

Watch = Callable[..., Any]

_FAULT = ("CODE", "LAYER", "FIX")


@dataclass(frozen=True, eq=False)
class Script:
    """One file of the set.

    Attributes:
        name: of the file, without ``.py``.
        path: of the file.
        module: the file, imported.
        fault: whether it is a fault with a healthy twin, or a healthy net.
        code: code of the rule that must find the fault; ``""`` for a healthy net.
        layer: path that must be among the finding's layers.
        fix: a word of the right fix.
    """

    name: str
    path: Path
    module: ModuleType
    fault: bool
    code: str = ""
    layer: str = ""
    fix: str = ""

    @property
    def twins(self) -> tuple[bool, ...]:
        """The values of ``faulty`` that the script can be run with."""
        return (True, False) if self.fault else (False,)

    @property
    def builds(self) -> bool:
        """Whether the script builds what is examined; otherwise it trains."""
        return hasattr(self.module, "build")

    def build(self, faulty: bool) -> dict[str, Any]:
        """Return the arguments of `gammabeta.examine`."""
        return dict(self.module.build(faulty))

    def train(self, faulty: bool, watch: Watch) -> dict[str, Any] | None:
        """Train; return the arguments of `gammabeta.examine` if it is a healthy net."""
        if self.fault:
            self.module.train(faulty, watch)
            return None
        return dict(self.module.train(watch))


def scripts(folder: Path, *, faults: bool, names: Sequence[str] | None = None) -> list[Script]:
    """Import the scripts in ``folder``, in the order of their names.

    Args:
        folder: with one script a file.
        faults: whether they are faults, or healthy nets.
        names: beginnings of the names that are wanted; None for all.

    Raises:
        ValueError: there is no such folder, or a script in it lacks something.
    """
    if not folder.is_dir():
        raise ValueError(
            f"scripts={folder.parent} has no folder {folder.name}; give the folder benchmarks of a "
            "checkout of gammabeta"
        )
    paths = [p for p in sorted(folder.glob("*.py")) if not p.name.startswith("_")]
    wanted = [p for p in paths if names is None or p.stem.startswith(tuple(names))]
    return [load(path, fault=faults) for path in wanted]


def load(path: Path, *, fault: bool) -> Script:
    """Import one script.

    Raises:
        ValueError: it lacks a constant or a function.
    """
    spec = importlib.util.spec_from_file_location(f"_gammabeta_set_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # classes of the script must be found when they are pickled
    spec.loader.exec_module(module)
    missing = [name for name in _FAULT if fault and not isinstance(vars(module).get(name), str)]
    if not (hasattr(module, "train") or (fault and hasattr(module, "build"))):
        missing.append("build or train" if fault else "train")
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}")
    constants = {name.lower(): getattr(module, name) for name in _FAULT if fault}
    return Script(path.stem, path, module, fault, **constants)
