"""The parts of the package import downwards only, and the library never imports the laboratory."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/gammabeta"

HOUSE = (
    {"cli"},
    {"lab"},
    {"doctor", "integrations", "view"},
    {"conversion", "signal"},
    {"statistics"},
    {"layers"},
    {"ops"},
    {"atomic_files", "names", "table"},
)
"""From top to bottom. A part imports itself and parts of lower rows."""

LAB = (
    {"bench", "claims", "demo"},
    {"train"},
    {"data", "measures", "models"},
)
"""The same within the laboratory."""

_MODULE = re.compile(r"gammabeta(\.[A-Za-z_]\w*)+")


def imported(source: str, package: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield line and full name of all that ``source``, a file in ``package``, imports of ours.

    Anywhere in the file: in functions, for type checking only, and modules named in strings.
    """
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names = [node.value] if _MODULE.fullmatch(node.value) else []
        yield from ((node.lineno, name) for name in names if name.startswith("gammabeta."))


def upward(order: Sequence[set[str]], folder: Path, prefix: str) -> list[str]:
    """Return each import in ``folder`` that does not point downwards, as ``file:line name``."""
    rank = {part: row for row, parts in enumerate(order) for part in parts}
    found = []
    for path in sorted(folder.rglob("*.py")):
        within = path.relative_to(folder)
        own = within.parts[0].removesuffix(".py")
        if own in ("__init__", "__main__"):
            continue
        assert own in rank, f"{own} has no place in the order; add it"
        package = ("gammabeta", *path.relative_to(PACKAGE).parts[:-1])
        for line, name in imported(path.read_text("utf-8"), package):
            other = name.removeprefix(prefix).split(".")[0] if name.startswith(prefix) else ""
            if other in rank and other != own and rank[other] <= rank[own]:
                found.append(f"{path.relative_to(PACKAGE)}:{line} {name}")
    return found


@pytest.mark.parametrize(
    ("order", "folder", "prefix"),
    [(HOUSE, PACKAGE, "gammabeta."), (LAB, PACKAGE / "lab", "gammabeta.lab.")],
    ids=["package", "lab"],
)
def test_imports_point_downwards(order: Sequence[set[str]], folder: Path, prefix: str) -> None:
    assert upward(order, folder, prefix) == []


def test_importing_the_library_loads_no_laboratory_and_no_command_line() -> None:
    """Every module of the library, in a fresh interpreter: also what is imported in other ways."""
    modules = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in ("lab", "cli", "__main__"):
            modules.append(".".join(("gammabeta", *parts)).removesuffix(".__init__"))
    assert len(modules) > 50
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(*(m for m in sys.modules if m.startswith(('gammabeta.lab', 'gammabeta.cli'))))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_only_the_training_step_runs_backward_and_steps() -> None:
    """A loop of its own would be a second way to train. The benchmark times one by itself."""
    own = {"train/step.py", "train/engine.py"}  # the engine warms up DistributedDataParallel
    lab = PACKAGE / "lab"
    found = {
        path.relative_to(lab).as_posix()
        for path in lab.rglob("*.py")
        if re.search(r"\.backward\(|optimizer\.step\(|zero_grad\(", path.read_text("utf-8"))
    }
    assert {name for name in found if not name.startswith("bench/")} == own


def test_every_way_to_import_is_seen() -> None:
    source = """
import gammabeta.lab
from gammabeta import cli
from gammabeta.lab.data import load
from ..lab import train
from . import probe
def later():
    from gammabeta.view import Page
name = "gammabeta.ops.cpu._native"
prose = "gammabeta.lab is not imported by this"
"""
    assert {name for _, name in imported(source, ("gammabeta", "layers"))} == {
        "gammabeta.lab",
        "gammabeta.cli",
        "gammabeta.lab.data.load",
        "gammabeta.lab.train",
        "gammabeta.layers.probe",
        "gammabeta.ops.cpu._native",
        "gammabeta.view.Page",
    }
