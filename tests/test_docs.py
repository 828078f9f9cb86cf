"""The documents are true: their python runs, their figures are those of the committed run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from torch import nn

from gammabeta import layers
from tests.forked import run_program

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/layers"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}-{number}")
    for path in DOCUMENTS
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.S), 1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_the_python_in_the_documents_runs(block: str, tmp_path: Path) -> None:
    status, printed = run_program(block, tmp_path)
    assert status == 0, printed


@pytest.mark.parametrize(
    ("block", "said"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("import warnings; warnings.warn('old')", "UserWarning: old"),
        ("import os; print('so far', flush=True); os.abort()", "so far"),
    ],
)
def test_a_block_that_fails_is_seen(block: str, said: str, tmp_path: Path) -> None:
    status, printed = run_program(block, tmp_path)
    assert status != 0
    assert said in printed


def test_the_readme_quotes_the_committed_run() -> None:
    quoted = re.search(
        r"pictured run printed:\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.S
    )
    printed = (ROOT / "docs/demo.txt").read_text()
    assert quoted
    assert quoted[1] in printed


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_between_the_documents_lead_somewhere(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", prose):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def page_of(layer: str) -> str:
    """``LazyBatchNorm2d`` → ``batch_norm``, the page that has to describe it."""
    if layer == "TLU":
        return "filter_response_norm"
    stem = re.sub(r"^Lazy|[123]d$", "", layer)
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", stem).lower()


LAYERS = [
    name
    for name in layers.__all__
    if isinstance(cls := getattr(layers, name), type) and issubclass(cls, nn.Module)
]
LAYER_PAGES = sorted({page_of(name) for name in LAYERS})


@pytest.mark.parametrize("layer", LAYERS)
def test_every_layer_has_a_page(layer: str) -> None:
    page = PAGES / f"{page_of(layer)}.md"
    head = page.read_text().split("## Formula")[0]
    assert f"`{layer}`" in head


def test_every_page_is_of_a_layer_and_in_the_table() -> None:
    written = {path.stem for path in PAGES.glob("*.md")} - {"README"}
    assert written == set(LAYER_PAGES)
    rows = re.findall(r"^\| \[[^]]+\]\((\w+)\.md\) \|", (PAGES / "README.md").read_text(), re.M)
    assert sorted(rows) == LAYER_PAGES


@pytest.mark.parametrize("page", LAYER_PAGES)
def test_a_page_has_all_its_parts(page: str) -> None:
    parts = re.findall(r"^## (.*)", (PAGES / f"{page}.md").read_text(), re.M)
    assert parts == [
        "Formula",
        "What is averaged",
        "When to choose it",
        "Its catch",
        "Example",
        "Paper",
    ]


def test_the_pictures_are_what_the_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts")
    drawn = importlib.import_module("make_axes").pictures()
    committed = {path.name: path.read_bytes() for path in PAGES.glob("*.svg")}
    assert sorted(committed) == sorted(drawn) == [f"{page}.svg" for page in LAYER_PAGES]
    for name, svg in drawn.items():
        assert committed[name] == svg.encode(), f"{name}: run python scripts/make_axes.py"


@pytest.mark.parametrize("page", LAYER_PAGES)
def test_a_page_shows_its_picture_and_says_what_is_in_it(page: str) -> None:
    picture = (PAGES / f"{page}.svg").read_text()
    described = re.search(r"<desc id=\"d\">(.*)</desc>", picture)
    assert described
    assert f"![{described[1]}]({page}.svg)" in (PAGES / f"{page}.md").read_text()
