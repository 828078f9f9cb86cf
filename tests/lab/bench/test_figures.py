"""The README's figures and the committed picture are those of the committed run."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from gammabeta.lab.bench import roofline
from gammabeta.lab.bench.results import Table, read
from tests.lab.bench.rows import formed, timed

ROOT = Path(__file__).parents[3]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_bench")


def test_the_readme_has_the_committed_figures(script: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    assert readme == script.inserted(readme, script.block()), "run python scripts/make_bench.py"


def test_the_picture_is_of_the_committed_run() -> None:
    folder = ROOT / "benchmarks/results"
    drawn = roofline.draw(read(folder / "norm.csv"))
    assert (folder / "roofline.svg").read_text("utf-8") == drawn, "run python scripts/make_bench.py"


def test_the_committed_run_is_whole() -> None:
    rows = read(ROOT / "benchmarks/results/norm.csv")
    counted = {(row.format, row.shape) for row in rows}
    assert {name for name, _ in counted} == {
        *("fp32-nchw", "fp32-channels_last", "bf16-channels_last"),
    }
    assert len({row.shape for row in rows}) > 30
    assert not [row for row in rows if row.setting.commit.endswith("+")]


def test_a_block_has_the_figures_of_its_files(script: ModuleType, tmp_path: Path) -> None:
    Table(tmp_path / "norm.csv").add(
        [
            timed("relu", "torch", 1e-3),
            *(timed(what, "gammabeta", 2e-3) for what in ("bn", "bn+relu")),
            timed("bn", "eager", 7e-3),
            timed("bn+relu", "eager", 9e-3),
        ]
    )
    Table(tmp_path / "step.csv").add(
        [formed("step", who, t) for who, t in (("relu", 1.0), ("gammabeta", 1.07))]
    )
    made = script.block(tmp_path)
    assert "| fp32 NCHW | 3.50 × | 4.50 × | – | 2.00 | 9.00 |" in made
    assert "| fp32 step: BN+ReLU ÷ ReLU alone | 1.07 | torch: – |" in made
    assert "lean" not in made  # what was not measured is left out
    assert made.endswith("2026-01-02.\n")


def test_a_block_is_put_between_the_markers_again_and_again(script: ModuleType) -> None:
    before = f"a\n{script.BEGIN}old\n{script.END}b\n"
    once = script.inserted(before, "new\n")
    assert once == f"a\n{script.BEGIN}\nnew\n\n{script.END}b\n"
    assert script.inserted(once, "new\n") == once
    with pytest.raises(SystemExit, match="has no lines"):
        script.inserted("no markers", "new\n")
