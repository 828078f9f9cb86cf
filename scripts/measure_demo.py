"""Measure the demonstration on this machine: python scripts/measure_demo.py

Prints the time `gammabeta demo` takes, the size of its page, and how the page plays in Chromium:
frames a second while it plays, and what a frame costs in JavaScript. Run it on a quiet machine.
"""

import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
# Every callback of an animation frame is timed; the frames themselves are stamped by the browser.
TIMING = """
window.costs = []; window.stamps = [];
const ask = requestAnimationFrame.bind(window);
window.requestAnimationFrame = f => ask(stamp => {
  const start = performance.now(); f(stamp); costs.push(performance.now() - start);
});
(function beat(stamp) { if (stamp) stamps.push(stamp); ask(beat); })();
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "gammabeta", "demo"], cwd=folder, check=True, capture_output=True
        )
        print(f"gammabeta demo            {time.perf_counter() - start:.1f} s")
        file = Path(folder) / "runs/demo.html"
        print(f"page as one file          {file.stat().st_size / 1e6:.2f} MB")
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
            )
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.add_init_script(TIMING)
            page.goto(file.as_uri())
            page.wait_for_timeout(500)  # opening: parsing and layout are not playing
            page.evaluate("stamps.length = costs.length = 0")
            page.wait_for_timeout(8_000)
            stamps, costs = page.evaluate("[stamps, costs]")
            browser.close()
        beats = [b - a for a, b in itertools.pairwise(stamps)]
        rate = 1000 * len(beats) / (stamps[-1] - stamps[0])
        late = sum(beat > 25 for beat in beats) / len(beats)
        print(f"frames a second           {rate:.1f} ({late:.1%} of them late)")
        print(
            f"JavaScript a frame        {statistics.median(costs):.1f} ms median, "
            f"{statistics.quantiles(costs, n=20)[-1]:.1f} ms at 95%"
        )


if __name__ == "__main__":
    main()
