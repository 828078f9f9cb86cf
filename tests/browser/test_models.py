"""Real models: a tree that folds, is searched, sorted and filtered, and names what is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from axe_core_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from gammabeta.signal import Record, Run
from gammabeta.signal.summary import summarize
from gammabeta.view import export
from tests.browser.conftest import Open
from tests.browser.models import LAYERS, Models, faulty
from tests.browser.test_hands import PHONE
from tests.browser.test_playback import PIXELS, step_shown
from tests.browser.waiting import until

FOLDED = [f"layer{i}" for i in range(1, 5)]
ROWS = LAYERS + LAYERS // 3  # every third layer ends a block, whose sum is a row


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def open_page(open_page: Open, models: Models) -> Open:
    def open_(url: str, **options) -> Page:
        page = open_page(url, **options)
        models.pages.append(page)
        return page

    return open_


def names(page: Page) -> list[str]:
    return page.locator(".item .label").all_inner_texts()


def caption(page: Page) -> str:
    return page.locator(".caption").inner_text()


def test_it_opens_folded_and_one_click_shows_all(open_page, models: Models) -> None:
    with models.served(models.path()) as url:
        page = open_page(url)
        expect(page.get_by_role("treeitem")).to_have_count(4)
        assert names(page) == FOLDED
        expect(page.get_by_role("treeitem", name="layer1, 8 layers")).to_be_visible()
        assert step_shown(page) == 80  # a finished run shows where it has come to
        page.get_by_role("button", name="unfold all").click()
        expect(page.get_by_role("treeitem", name="layer1.0.conv1: σ of z")).to_be_visible()
        assert names(page)[:4] == ["layer1", "layer1.0", "conv1", "conv2"]
        page.get_by_role("button", name="fold", exact=True).click()
        expect(page.get_by_role("treeitem")).to_have_count(4)


def test_layers_are_found_by_a_part_of_their_name_or_a_pattern(open_page, models: Models) -> None:
    with models.served(models.path()) as url:
        page = open_page(url)
        page.keyboard.press("/")
        search = page.get_by_role("searchbox")
        expect(search).to_be_focused()
        for query, found in [
            ("layer3.*.conv2", ["layer3.4.conv2", "layer3.5.conv2"]),
            ("conv[13]", ["conv1", "conv3"] * 8),
            ("LAYER1.0.CONV1", ["layer1.0.conv1"]),
            ("r1.?.conv3", []),  # a pattern is the whole name, or what follows a dot
            ("conv3", ["conv3"] * 8),
        ]:
            search.fill(query)
            expect(page.locator(".count")).to_have_text(f"{len(found)} of {ROWS}")
            assert all(name.endswith(end) for name, end in zip(names(page), found, strict=False))
        search.fill("no such layer")
        expect(page.get_by_text("No layer is called no such layer.")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator(".count")).to_have_text(f"{ROWS} layers")
        assert names(page) == FOLDED


@pytest.mark.parametrize(
    ("fault", "words", "shown", "chip"),
    [
        (
            "scale",
            r": σ is [\d.]+, \d+ times that of the layers like it",
            "relative",
            "σ stands out",
        ),
        ("dead", r": 100% of its units are dead", "dead", "dying"),
        ("vanish", r"the gradient vanishes here", "gradient", "tiny"),
        ("nan", r" is the first with values that are not finite, at step \d+", "std", "not finite"),
    ],
)
def test_the_caption_names_the_faulty_module(
    open_page, models: Models, fault: str, words: str, shown: str, chip: str
) -> None:
    module = faulty()
    with models.served(models.path(fault)) as url:
        page = open_page(url)
        until(lambda: re.search(words, caption(page)) is not None)
        assert module in caption(page)
        # The map shows the statistic in which it is seen, and a filter finds it.
        expect(page.get_by_label("Statistic of the map")).to_have_value(shown)
        page.get_by_role("button", name=chip).click()
        listed = names(page)
        assert (module in listed) or fault == "vanish"
        assert 1 <= len(listed) < ROWS
        page.get_by_role("button", name=chip).click()
        assert names(page) == FOLDED
        page.locator(".caption button").first.click()
        expect(page.get_by_role("treeitem", selected=True)).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", level=2)).to_contain_text("layer")


def test_layers_are_sorted_by_a_statistic(open_page, models: Models) -> None:
    with models.served(models.path("scale")) as url:
        page = open_page(url)
        page.get_by_label("Order of the layers").select_option("down")
        until(lambda: names(page)[:1] == [faulty()])
        page.get_by_label("Statistic of the map").select_option("gradient")
        until(lambda: names(page)[:1] != [faulty()])
        expect(page.get_by_text("gradient over time")).to_be_visible()
        until(lambda: "map=gradient" in page.evaluate("location.hash"))


def test_the_tree_by_keyboard(open_page, models: Models) -> None:
    with models.served(models.path()) as url:
        page = open_page(url)
        until(lambda: len(names(page)) == 4)
        page.keyboard.press("ArrowDown")
        first = page.get_by_role("treeitem", name="layer1, 8 layers")
        expect(first).to_be_focused()
        page.keyboard.press("ArrowRight")
        expect(first).to_have_attribute("aria-expanded", "true")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        expect(page.get_by_role("treeitem", name="layer1.0.conv1:")).to_be_focused()
        page.keyboard.press(",")
        assert step_shown(page) == 78
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="layer1.0.conv1")).to_be_visible()
        page.keyboard.press("j")
        expect(page.get_by_role("heading", name="layer1.0.conv2")).to_be_visible()
        until(lambda: "layer=layer1.0.conv2" in page.evaluate("location.hash"))
        page.keyboard.press("Escape")
        expect(page.get_by_role("treeitem", name="layer1.0.conv2:")).to_be_focused()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        expect(page.get_by_role("treeitem", name="layer1.0,")).to_have_attribute(
            "aria-expanded", "false"
        )
        page.keyboard.press("End")
        expect(page.get_by_role("treeitem", name="layer4, 8 layers")).to_be_focused()


def test_a_click_in_the_map_moves_the_playhead_and_shows_the_row(open_page, models: Models) -> None:
    with models.served(models.path()) as url:
        page = open_page(url)
        until(lambda: len(names(page)) == 4)
        box = page.get_by_role("slider").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 60)
        expect(page.locator(".tip b")).to_contain_text(re.compile(r"layer\d\.\d.* · step \d+"))
        told = page.locator(".tip b").inner_text().split(" · ")
        page.mouse.down()
        page.mouse.up()
        expect(page.get_by_role("treeitem", selected=True)).to_have_attribute("title", told[0])
        assert f"step {step_shown(page)}" == told[1]


def test_an_open_layer_shows_channels_and_trends(open_page, models: Models) -> None:
    with models.served(models.path()) as url:
        page = open_page(url + "#step=40&layer=layer2.2.conv2")
        for name in ("γ by channel", "β by channel", "gradient norm of layer2.2.conv2 over time"):
            expect(page.get_by_role("img", name=name)).to_be_visible()
        gamma = page.get_by_role("img", name="γ by channel")
        until(lambda: "not finite" not in gamma.evaluate(PIXELS))
        gamma.hover()
        expect(page.locator(".tip dt")).to_have_text(re.compile(r"channel \d+"))
        mean = page.locator(".stage[aria-label='z, model'] dd").first
        expect(mean).to_have_text(re.compile(r"± "))


def test_two_runs_side_by_side(open_page, models: Models) -> None:
    slow = models.path(seed=3, frames=30)
    with models.served(models.path("scale"), slow) as url:
        page = open_page(url)
        chips = page.get_by_role("group", name="Arm in front").get_by_role("button")
        expect(chips).to_have_count(2)
        until(lambda: faulty() in caption(page))
        assert "scale" in caption(page)  # whose layer it is
        canvas = page.locator("canvas.strips")
        before = canvas.evaluate(PIXELS)
        page.get_by_label("Compare the arms").select_option(index=2)
        until(lambda: canvas.evaluate(PIXELS) != before)
        page.get_by_role("button", name="by time").click()
        expect(page.locator(".step")).to_contain_text(" s")
        # A frame a second, 40 of one run and 30 of the other.
        expect(page.get_by_role("slider")).to_have_attribute("aria-valuetext", "39 s of 39 s")
        until(lambda: "axis=time" in page.evaluate("location.hash"))
        chips.nth(1).click()
        expect(chips.nth(1)).to_have_attribute("aria-pressed", "true")


def test_many_arms_with_long_names_do_not_overlap(open_page, models: Models) -> None:
    arms = [f"seed={i} lr=0.{i} weight_decay=1e-{i} augmentation=randaugment" for i in range(8)]
    with models.served(models.path(frames=6, arms=arms, layers=9)) as url:
        for size in ({"width": 1440, "height": 900}, {"width": 390, "height": 844}):
            page = open_page(url, viewport=size)
            chips = page.get_by_role("group", name="Arm in front").get_by_role("button")
            expect(chips).to_have_count(8)
            boxes = [chips.nth(i).bounding_box() for i in range(8)]
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    apart = a["x"] >= b["x"] + b["width"] or b["x"] >= a["x"] + a["width"]
                    assert apart or a["y"] >= b["y"] + b["height"] or b["y"] >= a["y"] + a["height"]
            assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
            colours = {chips.nth(i).evaluate("e => getComputedStyle(e).color") for i in range(8)}
            assert len(colours) == 8


def test_every_scalar_is_a_curve_and_marks_are_told(open_page, tmp_path) -> None:
    with Record(tmp_path / "curves") as made:
        arm = made.arm("model")
        z = made.probe(arm, 1, "fc", "z", None)
        for step in range(1, 21):
            scalars = {"loss": 1 / step, "accuracy": 87.0, "lr": 0.1, "val_loss": 2 / step}
            made.write(
                arm, step, {**scalars, "top1_acc": step / 40}, {z: summarize(torch.randn(64))}
            )
        made.mark(arm, 10, "lr drop")
    page = open_page(show(made.path, tmp_path))
    page.locator(".slider").hover(position={"x": 561, "y": 60})  # at step 10
    expect(page.locator(".tip")).to_contain_text("accuracy")
    expect(page.locator(".tip")).to_contain_text("lr drop")
    expect(page.locator(".tip")).to_contain_text("87")
    assert "8700" not in page.locator("body").inner_text()
    for name, value in [("lr", "0.1"), ("val_loss", ""), ("top1_acc", "%")]:
        expect(page.get_by_role("img", name=re.compile(f"^{name}: .*{value}"))).to_be_visible()


def show(path: Path, tmp_path: Path) -> str:
    with Run(path) as run:
        return export(run, tmp_path / "shown.html").as_uri()


@pytest.mark.parametrize("name", ["__proto__", "constructor", "<img src=x onerror=alert(1)>"])
def test_no_name_does_harm(open_page, tmp_path, name: str) -> None:
    with Record(tmp_path / "names") as made:
        arm = made.arm(name)
        probes = [made.probe(arm, i, f"{name}.{name}.{i}", "z", None) for i in range(1, 15)]
        for step in (1, 2):
            signals = {probe: summarize(torch.randn(64)) for probe in probes}
            made.write(arm, step, {name: step, "toString": 1.0}, signals)
    page = open_page(show(made.path, tmp_path))
    until(lambda: name in caption(page))
    page.get_by_role("searchbox").fill(name)
    expect(page.locator(".count")).to_have_text("14 of 14")
    assert page.locator("img[src]").count() == 0


def test_a_panel_is_saved_as_a_picture(open_page, models: Models, tmp_path) -> None:
    with models.served(models.path("scale")) as url:
        page = open_page(url)
        until(lambda: faulty() in caption(page))
        for panel in ("curves and map", "the layers", "residual stream: RMS by depth"):
            for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
                page.get_by_role("button", name=f"Picture of {panel}").focus()
                page.keyboard.press("Enter")
                item = page.get_by_role("menuitem", name=f"Download {kind}")
                expect(item).to_be_visible()
                with page.expect_download() as download:
                    item.click()
                saved = tmp_path / f"{kind}-{panel[:3]}"
                download.value.save_as(saved)
                assert saved.read_bytes().startswith(start), (panel, kind)
                assert saved.stat().st_size > 1500
                expect(item).to_be_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["", "layer", "list", "two", "phone"])
def test_axe_finds_nothing_serious(open_page, models: Models, scheme: str, place: str) -> None:
    options = PHONE if place == "phone" else {}
    paths = [models.path("scale"), *([models.path(seed=3, frames=30)] if place == "two" else [])]
    with models.served(*paths) as url:
        hash_ = "#layer=layer2.2.conv2" if place == "layer" else ""
        page = open_page(url + hash_, color_scheme=scheme, bypass_csp=True, **options)
        until(lambda: faulty() in caption(page))
        if place == "list":
            page.get_by_role("button", name="unfold all").click()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        found = Axe().run(page)
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical", "moderate")]
    assert [(v["id"], [n["target"] for n in v["nodes"]]) for v in serious] == []
