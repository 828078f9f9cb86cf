"""A thousand layers and a thousand frames open at once, and scrub smoothly."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from gammabeta.signal import Record
from gammabeta.view import Server
from tests.browser.waiting import until
from tests.view.big_record import Network, places

LAYERS = FRAMES = 1000
DIFFERENT = 8  # frames that are computed; the others repeat them

SCRUB = """async () => {
  const slider = document.querySelector(".slider");
  const box = slider.getBoundingClientRect();
  slider.setPointerCapture = () => {};
  const send = (type, x) => slider.dispatchEvent(new PointerEvent(
    type, { clientX: x, clientY: box.top + 30, pointerId: 1, bubbles: true }));
  const frames = 180, left = box.left + 0.1 * box.width;
  send("pointerdown", left);
  const steps = new Set();
  const start = performance.now();
  for (let i = 0; i < frames; i++) {
    await new Promise(requestAnimationFrame);
    send("pointermove", left + (i * 0.7 * box.width) / frames);
    steps.add(document.querySelector(".step").textContent);
  }
  await new Promise(requestAnimationFrame);
  const seconds = (performance.now() - start) / 1000;
  send("pointerup", left);
  return [frames / seconds, steps.size];
}"""


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = list(places(LAYERS, ("z",), residual=False))
    path = tmp_path_factory.mktemp("big") / "big.sqlite"
    with Record(path, "big") as made:
        arm = made.arm("model")
        ids = [made.probe(arm, p.layer, p.name, p.stage, "relu") for p in where]
        network = Network(where, ids, np.random.default_rng(0), "scale")
        frames = [network.measured(i / DIFFERENT) for i in range(DIFFERENT)]
        for step in range(1, FRAMES + 1):
            frame = frames[step % DIFFERENT]
            made.write(arm, step, {"loss": math.exp(-step / 300)}, lambda frame=frame: frame)
            if step % 16 == 0:
                made.flush()
    return path


@pytest.mark.timeout(120)
def test_it_opens_in_two_seconds_and_scrubs_at_fifty_frames_a_second(open_page, big: Path) -> None:
    alone = os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") == "1"
    quiet = alone and os.getloadavg()[0] < (os.cpu_count() or 1)
    with Server(big, 0) as server:
        opened = []
        for _ in range(3):
            page = open_page(server.url, viewport={"width": 1440, "height": 900})
            mark = "performance.getEntriesByName('first picture')[0].startTime"
            opened.append(page.evaluate(mark))
            expect(page.get_by_role("treeitem").first).to_be_visible()
        until(lambda: "σ is" in page.locator(".caption").inner_text())
        assert page.locator(".item").count() < 80
        page.wait_for_timeout(1000)
        rates = [page.evaluate(SCRUB)]
        while max(rates)[0] < 50 and len(rates) < 5:  # beside other work
            rates.append(page.evaluate(SCRUB))
    # At the first opening the server reads the record, which takes longer beside other work.
    assert sorted(opened)[1 if alone else 0] < 2000, opened
    assert not quiet or opened[0] < 2000, opened
    rate, steps = max(rates)
    assert steps > 120  # the picture has followed
    assert rate >= 50, rates
