"""docs/claims.md says what the committed outcomes say, of the protocols as they are today."""

from __future__ import annotations

import importlib
import json
import re
from types import ModuleType

import pytest

from gammabeta.lab.claims.framework.registry import claims
from gammabeta.lab.claims.framework.results import kept
from tests.lab.bench.test_figures import ROOT

COMMITTED = ROOT / "benchmarks/claims"
PAGE = ROOT / "docs/claims.md"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_claims")


def test_the_page_is_made_of_the_committed_outcomes(script: ModuleType) -> None:
    found = kept(COMMITTED, quick=False)
    # An outcome of an earlier protocol would silently be left out.
    assert len(found) == len(list((COMMITTED / "outcomes").iterdir()))
    assert PAGE.read_text("utf-8") == script.text(found), "run python scripts/make_claims.py"


def test_the_readme_has_the_score_board(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    made = script.block(kept(COMMITTED, quick=False))
    assert readme == script.inserted(readme, made, script.BEGIN, script.END)


def test_every_figure_is_there_and_no_other() -> None:
    page = PAGE.read_text("utf-8")
    linked = {PAGE.parent / target for target in re.findall(r"!\[.*?\]\((.*?)\)", page)}
    assert {path.resolve() for path in linked} == set((COMMITTED / "figures").iterdir())


def test_every_outcome_is_of_a_full_run_with_three_seeds_or_more() -> None:
    for path in (COMMITTED / "outcomes").iterdir():
        held = json.loads(path.read_text("utf-8"))
        assert held["claim"] in claims()
        assert not held["quick"]
        assert len(held["seeds"]) >= 3


def test_nothing_of_the_machine_it_was_made_on_is_told() -> None:
    for path in [PAGE, *COMMITTED.rglob("*.*")]:
        assert not re.search(r"/(home|tmp|work|root)/", path.read_text("utf-8")), path
