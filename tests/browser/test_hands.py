"""Numbers, narrow screens, keyboard, themes, reduced motion, and axe's judgement."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from gammabeta.signal import Record, Run
from gammabeta.signal.stages import LAYER_STAGES
from gammabeta.view import Server, export
from tests.browser.test_playback import PIXELS, alike, cell, step_shown
from tests.browser.waiting import until
from tests.signal import version_1
from tests.signal.recorded import summary
from tests.signal.wider import install, widen

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
NAMES = {
    "mean": "mean",
    "std": "std",
    "15th percentile": "p15",
    "median": "p50",
    "85th percentile": "p85",
    "smallest": "minimum",
    "largest": "maximum",
    "gradient norm": "gradient",
}


def shown(text: str) -> float:
    return float(text.split(" ±")[0].replace("−", "-").rstrip("%"))


def numbers(page: Page, where: str) -> dict[str, str]:
    names = page.locator(f"{where} dt").all_inner_texts()
    return dict(zip(names, page.locator(f"{where} dd").all_inner_texts(), strict=True))


@pytest.mark.parametrize("frame", [0, 30, 70])
def test_the_numbers_on_hover_are_the_records(open_page, demo: Path, frame: int) -> None:
    # From the server: the numbers of an exported file are rounded.
    with Server(demo, 0) as server:
        compare_with_hover(open_page, server.url, demo, frame, rel=6e-4)


def test_the_numbers_of_an_exported_file_are_the_records(open_page, demo_page, demo: Path) -> None:
    compare_with_hover(open_page, demo_page, demo, 20, rel=3e-3)


def compare_with_hover(open_page, url: str, demo: Path, frame: int, rel: float) -> None:
    with Run(demo) as run:
        frames = [f for f in run.frames() if f.arm == 1]
        recorded = frames[frame]
        probes = [p for p in run.probes() if p.arm == 1 and p.layer in (1, 4)]
    page = open_page(f"{url}#step={recorded.step}")
    for probe in probes:
        if probe.stage not in LAYER_STAGES:
            continue
        cell(page, "with batch norm", probe.layer, probe.stage).hover()
        until(lambda: NAMES.keys() <= set(page.locator(".tip dt").all_inner_texts()))
        tip = numbers(page, ".tip")
        summary = recorded.signals[probe.id]
        for name, attribute in NAMES.items():
            # Four significant digits are shown, three in scientific notation.
            digits = max(rel, 6e-3 if "e" in tip[name] else 0)
            known = pytest.approx(getattr(summary, attribute), rel=digits, abs=1e-30)
            assert shown(tip[name]) == known, (probe, name)
        if summary.saturated is not None:
            assert shown(tip["saturated"]) == pytest.approx(100 * summary.saturated, abs=0.51)
        assert f"step {recorded.step}" in page.locator(".tip b").inner_text()


def test_a_field_that_is_added_to_the_table_is_listed(open_page, tmp_path, monkeypatch) -> None:
    install(monkeypatch)
    with Record(tmp_path / "wide") as record:
        arm = record.arm("a")
        probes = [record.probe(arm, 1, "fc", stage, None) for stage in ("z", "activation")]
        first = widen(summary(1), kurtosis=3.25, rank=0.5)
        second = widen(summary(2), kurtosis=float("nan"))
        record.write(arm, 1, {}, dict(zip(probes, (first, second), strict=True)))
    with Run(record.path) as run:
        page = open_page(export(run, tmp_path / "wide.html").as_uri() + "#layer=1")
    z = numbers(page, ".stage[aria-label='z, a']")
    assert (z["kurtosis"], z["rank used"]) == ("3.25", "50%")
    title = page.locator(".stage[aria-label='z, a'] dt", has_text="kurtosis").get_attribute("title")
    assert title == "fourth standardized moment (a pure number)"
    activation = numbers(page, ".stage[aria-label='activation, a']")
    assert activation["kurtosis"] == "not finite"
    assert "rank used" not in activation  # it was not measured


def test_a_file_of_version_1_is_shown(open_page, tmp_path) -> None:
    with Run(version_1.write(tmp_path / "old.sqlite")) as run:
        page = open_page(export(run, tmp_path / "old.html").as_uri() + "#layer=1")
    assert page.locator("h1").inner_text() == "A run of version 1"
    assert numbers(page, ".stage[aria-label='z, model']") == {
        "mean": "0.25",
        "std": "0.5",
        "15th percentile": "−0.25",
        "median": "0.125",
        "85th percentile": "0.75",
        "smallest": "−200",
        "largest": "300",
        "below the axis": "8%",  # of the 13 finite values
        "above the axis": "15%",
        "not finite": "7%",  # of all 14
        "exactly 0": "31%",
        "saturated": "6%",
        "dead units": "25%",
        "gradient norm": "1.5",
    }
    activation = numbers(page, ".stage[aria-label='activation, model']")
    assert activation["mean"] == "not finite"
    assert activation["not finite"] == "100%"
    assert "dead units" not in activation


def test_a_layer_opens_with_its_numbers_and_closes(open_page, demo_page, demo: Path) -> None:
    page = open_page(demo_page + "#step=20")
    page.get_by_role("button", name="Open layers.1.linear, with batch norm").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="layers.1.linear")).to_be_visible()
    with Run(demo) as run:
        frame = next(f for f in run.frames() if f.arm == 1 and f.step == 20)
        probe = next(p for p in run.probes() if (p.arm, p.layer, p.stage) == (1, 2, "affine"))
    listed = numbers(page, ".stage[aria-label='γx̂ + β, with batch norm']")
    assert shown(listed["std"]) == pytest.approx(frame.signals[probe.id].std, rel=6e-4)
    page.keyboard.press("ArrowRight")
    assert numbers(page, ".stage[aria-label='γx̂ + β, with batch norm']") != listed
    page.keyboard.press("Escape")
    expect(page.locator(".detail")).to_be_hidden()
    expect(page.get_by_role("button", name="Open layers.1.linear, with batch norm")).to_be_focused()


def test_the_caption_speaks_of_the_numbers_at_the_playhead(open_page, demo_page, demo) -> None:
    page = open_page(demo_page + "#step=90")
    with Run(demo) as run:
        last = [f for f in run.frames() if f.arm == 0][-1]
        z = {p.name: p.id for p in run.probes() if p.arm == 0 and p.stage == "z" and p.activation}
    words = page.locator(".caption").inner_text()
    name, share = re.match(r"(\S+), without: >?(\d+)% saturated", words).groups()
    saturated = {k: last.signals[i].saturated for k, i in z.items()}
    assert saturated[name] == max(saturated.values())
    assert int(share) == pytest.approx(100 * saturated[name], abs=1.01)
    page.locator(".caption").get_by_role("button", name=name).first.click()
    expect(page.get_by_role("heading", name=name)).to_be_visible()


def test_a_narrow_screen_shows_one_arm_and_the_other_as_an_outline(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=40", **PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(cell(page, "with batch norm", 4, "z")).to_be_visible()
    expect(cell(page, "without", 4, "z")).to_be_hidden()
    page.get_by_role("button", name="without", exact=True).tap()
    expect(cell(page, "without", 4, "z")).to_be_visible()
    expect(cell(page, "with batch norm", 4, "z")).to_be_hidden()
    page.get_by_role("button", name="Open layers.3.linear, without").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.get_by_role("heading", name="layers.3.linear")).to_be_visible()


def test_a_window_that_changes_size_keeps_its_picture(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=40")
    wide = cell(page, "without", 1, "z").evaluate(PIXELS)
    for width in (700, 390, 1000, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        until(lambda: page.evaluate("document.documentElement.scrollWidth") <= width)  # noqa: B023
    until(lambda: alike(cell(page, "without", 1, "z").evaluate(PIXELS), wide))


def test_everything_can_be_reached_and_used_with_the_keyboard(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=5")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        name = page.evaluate(
            "document.activeElement.getAttribute('aria-label') || document.activeElement.innerText"
        )
        if name in reached:
            break
        reached.append(name)
    wanted = {"Keys and help", "Switch between light and dark", "Step", "Play", "First frame"}
    wanted |= {"Last frame", "slow motion", "pin", "by time", "Speed 0.25 times"}
    wanted |= {"Open layers.0.linear, without", "Statistic of the map", "Compare the arms"}
    assert wanted <= set(reached)
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    assert step_shown(page) == 6
    page.get_by_role("button", name="Keys and help").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("ArrowRight")  # belongs to the dialog now
    assert step_shown(page) == 6
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_themes(open_page, demo_page) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    page = open_page(demo_page + "#step=5")
    light = page.evaluate(ground)
    picture = cell(page, "without", 1, "z").evaluate(PIXELS)
    page.get_by_role("button", name="Switch between light and dark").click()
    assert page.evaluate(ground) != light
    assert cell(page, "without", 1, "z").evaluate(PIXELS) != picture
    dark = open_page(demo_page + "#step=5", color_scheme="dark")
    assert dark.evaluate(ground) == page.evaluate(ground)


def test_reduced_motion_opens_still_and_steps_without_tweens(open_page, demo_page) -> None:
    page = open_page(demo_page, reduced_motion="reduce")
    page.wait_for_timeout(300)
    assert step_shown(page) == 1
    recorded = set()
    for step in range(1, 9):
        page.goto("about:blank")
        page.goto(f"{demo_page}#step={step}")
        page.wait_for_selector(".transport")
        recorded.add(cell(page, "without", 2, "activation").evaluate(PIXELS))
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    while step_shown(page) < 8:
        picture = cell(page, "without", 2, "activation").evaluate(PIXELS)
        if step_shown(page) <= 8:
            assert picture in recorded, "a picture between two recorded frames"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "&layer=2", "help", "phone"])
def test_axe_finds_nothing_serious(open_page, demo_page, scheme: str, place: str) -> None:
    options = PHONE if place == "phone" else {}
    # axe is put into the page as a script, which the page's own policy would refuse.
    page = open_page(
        demo_page + "#step=30" + (place if place.startswith("&") else ""),
        color_scheme=scheme,
        bypass_csp=True,
        **options,
    )
    if place == "help":
        page.keyboard.press("?")
    found = Axe().run(page)
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical", "moderate")]
    assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in serious] == []
    assert len(found["passes"]) > 10  # it has looked
