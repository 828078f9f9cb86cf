"""Playing, stepping, scrubbing, slow motion: the picture follows the playhead."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from gammabeta.signal import Run
from tests.browser.waiting import until

PIXELS = "canvas => canvas.toDataURL()"


def alike(one: str, other: str) -> bool:
    """Whether two pictures are of one size and nine in ten of their pixels are the same.

    Chromium draws a canvas that was read often without the graphics card, whose edges are softened
    otherwise: that changes a fiftieth.
    """
    a, b = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))))
        for picture in (one, other)
    )
    return a.shape == b.shape and float((a == b).all(-1).mean()) > 0.9


def cell(page: Page, arm: str, layer: int, stage: str):
    return page.locator(
        f"section.arm[aria-label='{arm}'] canvas[data-layer='{layer}'][data-stage='{stage}']"
    )


def step_shown(page: Page) -> int:
    words = page.locator(".step").inner_text().split()
    return int(words[1]) if words else 0


def recorded_steps(path: Path) -> list[int]:
    with Run(path) as run:
        return sorted({frame.step for frame in run.frames()})


def test_it_opens_moving_and_the_picture_changes(open_page, demo_page) -> None:
    page = open_page(demo_page)
    z = cell(page, "without", 4, "z")
    before, step = z.evaluate(PIXELS), step_shown(page)
    until(lambda: step_shown(page) > step + 3)
    assert z.evaluate(PIXELS) != before
    expect(page.get_by_role("button", name="Pause")).to_be_visible()


def test_playing_ends_at_the_last_frame(open_page, demo_page, demo) -> None:
    page = open_page(demo_page + "#speed=4")
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible(timeout=15_000)
    assert step_shown(page) == recorded_steps(demo)[-1] == 90


def test_keys_step_through_the_recorded_frames(open_page, demo_page, demo) -> None:
    steps = recorded_steps(demo)
    page = open_page(demo_page + "#step=1")
    walk = [("ArrowRight", 1), ("ArrowRight", 2), ("Shift+ArrowRight", 12), ("ArrowLeft", 11)]
    walk += [
        ("Shift+ArrowLeft", 1),
        ("End", len(steps) - 1),
        ("ArrowRight", len(steps) - 1),
        ("Home", 0),
    ]
    for key, frame in walk:
        page.keyboard.press(key)
        assert step_shown(page) == steps[frame], key
    page.keyboard.press("Space")
    until(lambda: step_shown(page) > 2)
    page.keyboard.press("Space")
    stopped = step_shown(page)
    page.wait_for_timeout(200)
    assert step_shown(page) == stopped


def test_dragging_the_map_scrubs_and_the_address_remembers(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=1")
    box = page.get_by_role("slider").bounding_box()
    page.mouse.move(box["x"] + 100, box["y"] + box["height"] - 40)
    page.mouse.down()
    seen = []
    for share in (0.3, 0.5, 0.8):
        page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] - 40)
        seen.append(step_shown(page))
    page.mouse.up()
    assert seen == sorted(set(seen))
    assert seen[-1] > 40
    until(lambda: f"step={seen[-1]}" in page.evaluate("location.hash"))
    again = open_page(page.evaluate("location.href"))
    assert step_shown(again) == seen[-1]
    assert again.get_by_role("slider").get_attribute("aria-valuetext") == f"step {seen[-1]} of 90"


def test_the_address_carries_speed_and_open_layer(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=7")
    page.get_by_role("button", name="Speed 4 times").click()
    page.keyboard.press("3")
    parts = {"step=7", "speed=4", "layer=3"}
    until(lambda: parts <= set(page.evaluate("location.hash").strip("#").split("&")))
    again = open_page(page.evaluate("location.href"))
    expect(again.get_by_role("heading", name="layers.2.linear")).to_be_visible()
    expect(again.get_by_role("button", name="Speed 4 times")).to_have_attribute(
        "aria-pressed", "true"
    )


@pytest.mark.parametrize("bad", ["#step=-5", "#step=1e9", "#step=x&layer=99&speed=-3", "#%zz"])
def test_a_senseless_address_does_no_harm(open_page, demo_page, bad) -> None:
    page = open_page(demo_page + bad)
    assert 1 <= step_shown(page) <= 90
    expect(page.locator(".panels").first).to_be_visible()


def test_slow_motion_moves_between_the_recorded_stages(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=10")
    x_hat, z = cell(page, "with batch norm", 1, "normalized"), cell(page, "with batch norm", 1, "z")
    rest = x_hat.evaluate(PIXELS)
    page.keyboard.press("s")  # plays
    looks, starts = set(), set()
    for _ in range(12):
        looks.add(x_hat.evaluate(PIXELS))
        start = z.evaluate(PIXELS)
        if step_shown(page) == 10:
            starts.add(start)
        page.wait_for_timeout(30)
    assert len(looks) >= 3, "x̂ should be seen on its way"
    first, *others = starts
    assert all(alike(first, other) for other in others), "z is where all begins: it stands still"
    page.keyboard.press("Space")
    page.goto("about:blank")
    page.goto(demo_page + "#step=10")
    page.wait_for_selector(".transport")
    assert alike(cell(page, "with batch norm", 1, "normalized").evaluate(PIXELS), rest)


def test_the_tween_starts_and_ends_at_the_recorded_histograms(open_page, demo_page) -> None:
    """`between` at 0 and 1 is the shape of either signal, up to its quantiles' resolution."""
    page = open_page(demo_page + "#step=10")
    worst = page.evaluate(
        """async () => {
          const { source } = await import("gammabeta/source.js");
          const { Run } = await import("gammabeta/run.js");
          const { Store } = await import("gammabeta/store.js");
          const { reading } = await import("gammabeta/reading.js");
          const { between } = await import("gammabeta/shape.js");
          const from = source();
          const run = new Run(await from.index());
          const store = new Store(from, run);
          await Promise.all([...store.fields].map(field => store.load(field)));
          await store.shapes.prepare();
          const frame = run.armFrames.get(1)[9];
          let worst = 0;
          for (const row of run.rows.all.slice(0, 4)) {
            const z = reading(store, frame, row.probe(1, "z").id);
            const x = reading(store, frame, row.probe(1, "normalized").id);
            for (const [t, signal] of [[0, z], [1, x]]) {
              const moved = between(z, x, t, run.axis), still = signal.shape;
              // Mass that lies elsewhere, as a share of all.
              let apart = 0, all = 0;
              for (let i = 0; i < still.length; i++) {
                apart += Math.abs(moved[i] - still[i]) * run.axis.widths[i];
                all += still[i] * run.axis.widths[i];
              }
              worst = Math.max(worst, apart / all);
            }
          }
          return worst;
        }"""
    )
    # 512 quantiles for 4,096 values: a quantile holds 8 values, spread evenly where they were not.
    assert worst < 0.06


def test_an_exported_file_has_the_recorded_shapes(open_page, demo_page, demo) -> None:
    page = open_page(demo_page + "#step=10")
    with Run(demo) as run:
        frames = list(run.frames())
    for number in (0, 7, len(frames) // 2, len(frames) - 1):
        frame = frames[number]
        for probe, signal in list(frame.signals.items())[:6]:
            shown = page.evaluate(
                """async ([frame, probe]) => {
                  const { source } = await import("gammabeta/source.js");
                  window.from ??= source();
                  window.index ??= await from.index();
                  return [...await from.shapes([frame], [probe])];
                }""",
                [number, probe],
            )
            counts = np.asarray(signal.histogram, dtype=float)
            counts[128] -= signal.zeros
            if counts.sum() == 0:
                continue
            apart = np.abs(np.cumsum(shown) / sum(shown) - np.cumsum(counts) / counts.sum())
            assert apart.max() < 0.03, (number, probe)


def test_pin_keeps_a_frame_as_an_outline(open_page, demo_page) -> None:
    page = open_page(demo_page + "#step=5")
    z = cell(page, "without", 4, "z")
    page.keyboard.press("End")
    plain = z.evaluate(PIXELS)
    page.keyboard.press("Home")
    page.keyboard.press("g")
    page.keyboard.press("End")
    assert z.evaluate(PIXELS) != plain
    page.keyboard.press("g")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("End")
    assert alike(z.evaluate(PIXELS), plain)


def test_a_frame_of_the_animation_costs_half_of_a_sixtieth_of_a_second(browser, demo_page) -> None:
    """60 frames a second leave 16.7 ms: half for our own work, half for the browser's."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.add_init_script(
        """const ask = requestAnimationFrame.bind(window); window.costs = [];
        window.requestAnimationFrame = f => ask(t => {
          const start = performance.now(); f(t); costs.push(performance.now() - start); });"""
    )
    page.goto(demo_page)
    until(lambda: page.evaluate("costs.length") > 150)
    costs = sorted(page.evaluate("costs.slice(30)"))
    page.close()
    assert costs[len(costs) // 2] < 8.3
