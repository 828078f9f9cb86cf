"""The report of the claims, in a browser: readable, light and dark, and on a phone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from gammabeta.lab.claims.framework import report
from tests.lab.claims.test_report import results

__all__ = ["results"]

Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, results: list[report.Result], tmp_path: Path) -> Iterator[Open]:
    """Open the report; when the test ends it may not have complained."""
    url = report.write(results, tmp_path)[0].as_uri()
    contexts, complaints = [], []

    def open_(**options: Any) -> Page:
        # axe is put into the page as a script, which the page's own policy would refuse.
        context = browser.new_context(bypass_csp=True, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wrong_with_it(opened: Open, scheme: str, width: int) -> None:
    page = opened(color_scheme=scheme, viewport={"width": width, "height": 900})
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    found = Axe().run(page)
    assert [(v["id"], [n["html"][:90] for n in v["nodes"]]) for v in found["violations"]] == []
    sizes = page.evaluate(
        "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert sizes[0] == sizes[1] == width  # only figures and tables are drawn aside


def test_the_figures_take_the_pages_colours(opened: Open) -> None:
    found = []
    for scheme in ("light", "dark"):
        page = opened(color_scheme=scheme)
        line = page.locator("figure svg path[style*='--warm']").first
        found.append(line.evaluate("e => getComputedStyle(e).stroke"))
    assert found == ["rgb(184, 69, 15)", "rgb(255, 157, 92)"]


def test_the_board_leads_to_the_claims(opened: Open) -> None:
    page = opened()
    page.get_by_role("link", name="T<w>o").click()
    assert page.url.endswith("#two")
    assert page.locator("#two").evaluate("e => e.getBoundingClientRect().top < innerHeight")
