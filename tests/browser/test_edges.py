"""Runs that are not the demonstration: each should look intended, and none may do harm."""

from __future__ import annotations

import math

import pytest
from playwright.sync_api import expect

from tests.browser.test_playback import PIXELS, cell, step_shown

EVIL = (
    "<img src=x onerror=\"document.title='owned'\"></script><script>document.title='owned'</script>"
)


def test_the_exported_file_needs_no_network(browser, demo_page) -> None:
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(demo_page + "#step=3")
    expect(page.locator(".step")).to_have_text("step 3 / 90")
    assert [url[:5] for url in asked if not url.startswith("data:")] == ["file:"]
    context.close()


def test_names_are_text_never_markup(open_page, made) -> None:
    page = open_page(
        made({EVIL: [1.0, 0.5], EVIL + " with ": [1.0]}, title=EVIL, note=EVIL, name=EVIL)
        + "#step=1"
    )
    page.keyboard.press("1")
    assert page.locator("img").count() == 0
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator(".note").inner_text() == EVIL
    assert page.locator(".detail h2").inner_text() == f"{EVIL}.1"
    assert page.locator("h3").first.inner_text() == EVIL
    assert page.title() != "owned"


def test_a_run_without_frames(open_page, made) -> None:
    page = open_page(made({}))
    expect(page.get_by_text("ended before its first frame: call the watched")).to_be_visible()
    for key in ("Space", "ArrowRight", "End", "1", "s", "g"):
        page.keyboard.press(key)


def test_a_run_of_one_frame(open_page, made) -> None:
    page = open_page(made({"without": [1.0], "with norm": [0.9]}))
    assert step_shown(page) == 1
    for key in ("Space", "ArrowRight", "End", "1", "Escape", "s"):
        page.keyboard.press(key)
    expect(page.locator(".step")).to_have_text("step 1 / 1")


def test_a_run_of_one_arm(open_page, made) -> None:
    page = open_page(made({"with group norm": [1.0, 0.8, 0.7]}) + "#step=2")
    expect(cell(page, "with group norm", 1, "normalized")).to_be_visible()
    assert page.locator("section.arm").count() == 1
    assert page.locator(".tabs").count() == 0


@pytest.mark.parametrize("spoil", [math.nan, math.inf])
def test_a_run_that_diverged_says_so_and_stays(open_page, made, spoil: float) -> None:
    losses = {"without": [2.0, 9.0, math.nan], "with norm": [2.0, 1.0, 0.5, 0.4, 0.3]}
    page = open_page(made(losses, spoil=spoil) + "#step=2")
    before = cell(page, "without", 1, "z").evaluate(PIXELS)
    readout = page.locator("section.arm[aria-label='without'] .readout")
    expect(readout).to_contain_text("loss 9")
    page.keyboard.press("ArrowRight")
    expect(readout).to_contain_text("diverged at step 3")
    spoiled = cell(page, "without", 1, "z").evaluate(PIXELS)
    assert spoiled != before
    page.keyboard.press("End")
    assert step_shown(page) == 5
    expect(readout).to_contain_text("diverged at step 3")
    words = "layer.1, without is the first with values that are not finite, at step 3"
    expect(page.locator(".caption")).to_contain_text(words)
    cell(page, "without", 1, "z").hover()
    expect(page.locator(".tip")).to_contain_text("not finite")


def test_a_deep_network_scrolls_and_draws_what_is_seen(open_page, made) -> None:
    page = open_page(made({"with norm": [1.0, 0.9]}, layers=140) + "#step=2")
    assert page.get_by_role("treeitem").count() < 60  # what is not on the screen does not exist
    rows = page.locator(".rowcanvas")
    top = rows.evaluate(PIXELS)
    expect(page.get_by_role("treeitem", name="layer.140:")).to_have_count(0)
    page.locator(".scroller").evaluate("e => e.scrollTop = e.scrollHeight")
    expect(page.get_by_role("treeitem", name="layer.140:")).to_be_visible()
    assert rows.evaluate(PIXELS) != top
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
