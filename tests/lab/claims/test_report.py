"""The report: one file that needs nothing else, with every number it should have."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from gammabeta.lab.claims.framework import report
from gammabeta.lab.claims.framework.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.lab.claims.framework.figure import BAD, WARM, inlined, label, labels, sheet
from gammabeta.lab.claims.framework.results import Result
from tests.lab.claims.test_framework import made

ROOT = Path(__file__).parents[3]


def result(claim: Claim, outcome: Outcome) -> Result:
    return Result(claim, outcome, 90.0, True, "digits", (0, 1, 2), "2026-01-31", "here")


@pytest.fixture
def results(tmp_path: Path) -> list[Result]:
    """Three claims, one of each verdict; names and numbers that could break a page."""
    figure = tmp_path / "figures/made-up.svg"
    with sheet(figure, "A <line> & more.", columns=2) as drawn:
        for axes, colour in zip(drawn.panels, (WARM, BAD), strict=True):
            axes.plot([1, 2], [1, 2], color=colour)
            label(axes, 2, 2, "end", colour)
    number = Number("a < b | c", 0.5, 0.4, 0.6, "%", "1 & 2", "≥ 3")
    return [
        result(made(name="one"), Outcome([number], HOLDS, "It is <so>.", [figure], ["N & m."])),
        result(
            made(name="two", title="T<w>o"),
            Outcome([number], UNDER_THIS_PROTOCOL, "Partly.", headline="1 to 9: of all"),
        ),
        result(made(name="three"), Outcome([number], DOES_NOT_HOLD, "No.")),
    ]


class Checked(HTMLParser):
    """Every element is closed, no id is there twice, nothing is loaded from elsewhere."""

    VOID = ("meta", "link", "br", "img", "input")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                assert (value or "").startswith("#"), value

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page(results: list[Result]) -> None:
    page = report.page(results)
    checked = Checked()
    checked.feed(page)
    assert checked.open == []
    assert len(checked.ids) == len(set(checked.ids))
    assert {"one", "two", "three"} <= set(checked.ids)
    text = " ".join(" ".join(checked.text).split())
    for said in (
        "3 claims put to the test: 1 holds, 1 holds under this protocol, 1 does not hold here.",
        "Run here on digits in place of Fashion-MNIST, with the quick protocol and 3 seeds.",
        "digits · quick protocol · 3 seeds, median and smallest … largest · 4.5 minutes",
        "It is <so>.",
        "T<w>o",
        "a < b | c",
        "50.0 %",
        "40.0 … 60.0",
        "1 & 2",
        "N & m.",
        "1 to 9",
        "A <line> & more.",
    ):
        assert said in text, said
    assert "%%" not in page


def test_the_markdown(results: list[Result], tmp_path: Path) -> None:
    text = report.markdown(results, tmp_path)
    assert "| [Made up](#one) | 1 | a < b \\| c: 50.0 % (40.0 … 60.0), target ≥ 3 | holds |" in text
    assert "| [T<w>o](#two) | 1 | 1 to 9: of all | holds under this protocol |" in text
    assert "![Made up](figures/made-up.svg)" in text
    assert "**does not hold here.** No." in text
    for line in text.splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (5, 6)


def test_both_are_written(results: list[Result], tmp_path: Path) -> None:
    page, text = report.write(results, tmp_path)
    assert page.read_text() == report.page(results)
    assert text.read_text() == report.markdown(results, tmp_path)
    with pytest.raises(ValueError, match=r"results=\[\] must hold at least one"):
        report.write([], tmp_path)


def test_the_colours_are_the_views(results: list[Result]) -> None:
    """The report and its figures look like the page of a run, in light and in dark."""
    view = (ROOT / "src/gammabeta/view/static/style.css").read_text()
    mine = (ROOT / "src/gammabeta/lab/claims/framework/static/report.css").read_text()
    found = [re.findall(r"--(\w+): (#\w{6});", css) for css in (view, mine)]
    names = {name for name, _ in found[1]}  # the page has more, for more arms
    found[0] = [(name, colour) for name, colour in found[0] if name in names]
    assert found[1] == found[0][: len(found[1])]
    light, dark = dict(found[1][:11]), dict(found[1][11:])
    svg = results[0].outcome.figures[0].read_text()
    for name, colour in re.findall(r"var\(--(\w+), (#\w{6})\)", svg):
        assert light[name] == colour
    for name, colour in re.findall(r"--(\w+):(#\w{6});", svg):
        assert dark[name] == colour
    assert "@media" in svg
    assert "@media" not in inlined(svg)  # the page has them as its own


def test_a_figure_is_the_same_again(results: list[Result], tmp_path: Path) -> None:
    svg = results[0].outcome.figures[0].read_bytes()
    again = tmp_path / "again/made-up.svg"
    with sheet(again, "A <line> & more.", columns=2) as drawn:
        for axes, colour in zip(drawn.panels, (WARM, BAD), strict=True):
            axes.plot([1, 2], [1, 2], color=colour)
            label(axes, 2, 2, "end", colour)
    assert again.read_bytes() == svg


def test_names_at_the_ends_of_curves_keep_apart(tmp_path: Path) -> None:
    with sheet(tmp_path / "a.svg", "Lines.") as drawn:
        axes = drawn.panels[0]
        axes.set_ylim(0, 10)
        labels(axes, [(1.0, y, f"at {y}", WARM) for y in (5.0, 5.1, 4.9, 9.0)])
        places = {
            text.get_text(): axes.transData.transform(text.xy)[1] * 72 / drawn.figure.dpi
            + text.xyann[1]
            for text in axes.texts
        }
    heights = [places[f"at {y}"] for y in (4.9, 5.0, 5.1, 9.0)]
    gaps = [b - a for a, b in pairwise(heights)]
    assert min(gaps) >= 10 - 1e-6  # 8 points high, and some air
