"""The page on the zoo has the results of the committed run."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from gammabeta.lab.bench.zoo import read
from gammabeta.lab.bench.zoo_case import Result

ROOT = Path(__file__).parents[3]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_zoo")


def test_the_page_has_the_committed_results(script: ModuleType) -> None:
    page = (ROOT / "docs/zoo.md").read_text("utf-8")
    made = script.block(read(script.RESULTS))
    assert page == script.inserted(page, made), "run python scripts/make_zoo.py"


def test_no_committed_result_differs_without_a_word(script: ModuleType) -> None:
    results = read(script.RESULTS)
    assert sum(result.network.startswith("transformers:") for result in results) >= 25
    assert all(r.failures for r in results if r.status == "differs")
    assert all(r.note for r in results if r.status == "left out")


def test_a_block_has_what_differs_and_what_was_left_out(script: ModuleType) -> None:
    made = script.block(
        [
            Result("pytorchcv:a", "same", norms=5, converted=4, fused=3, folded=2),
            Result("pytorchcv:b_1", "differs", failures=["fused: training 1e-2|"]),
            Result("pytorchcv:c", note="a <reason>"),
        ]
    )
    assert made.startswith(
        "3 networks with 5 normalization layers: 4 converted, 3 of them fused with what follows, "
        "2 folded.\n"
    )
    assert "- pytorchcv:b\\_1: fused: training 1e-2\\|\n" in made
    assert "| 1 | a &lt;reason> | pytorchcv:c |" in made
    assert "Nothing to convert" not in made
