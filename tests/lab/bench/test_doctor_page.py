"""The page on the doctor's benchmark has the results of the committed run, of the present set."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from gammabeta.lab.bench.doctor import TOOLS
from gammabeta.lab.bench.doctor_case import Case
from gammabeta.lab.bench.doctor_table import read
from gammabeta.lab.bench.doctor_tools import OURS

ROOT = Path(__file__).parents[3]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_doctor")


def test_the_page_has_the_committed_results(script: ModuleType) -> None:
    cases = read(script.RESULTS)
    for path, make in script.MADE.items():
        page = path.read_text("utf-8")
        assert page == script.inserted(page, make(cases)), "run python scripts/make_doctor.py"


@pytest.mark.parametrize(("kind", "folder"), [("fault", "faults"), ("healthy", "healthy")])
def test_the_results_are_those_of_the_set(kind: str, folder: str, script: ModuleType) -> None:
    names = {path.stem for path in (ROOT / "benchmarks" / folder).glob("*.py")}
    cases = {case.key for case in read(script.RESULTS)}
    for tool in TOOLS:
        found = {name for of, name, who in cases if (of, who) == (kind, tool)}
        assert found == names, "run gammabeta bench doctor --out benchmarks/results"


def test_a_block_has_what_is_wrong(script: ModuleType) -> None:
    made = script.block(
        [
            Case("fault", "gb103_a", OURS, "GB103", made="2026-11-28, torch 2.13.0"),
            Case("fault", "gb103_a", "torchtest2", "GB103", made="2026, torchtest2 0.1.0"),
            Case("healthy", "net", OURS),
        ]
    )
    assert made.startswith("1 faults with their healthy twins, 1 healthy nets that are trained, 0 ")
    assert "- gb103\\_a, gammabeta: missed\n" in made
    assert made.endswith("Other tools: torchtest2 0.1.0.\n")
