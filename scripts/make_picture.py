"""Make the README's picture and score board from one real run: python scripts/make_picture.py

Runs `gammabeta demo` (its defaults), photographs its page in Chromium, light and dark, and writes
what the command printed to docs/demo.txt and its board into the README. Needs the test extra.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

DOCS = Path(__file__).parents[1] / "docs"
STEP = 60
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]


def main() -> None:
    DOCS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gammabeta", "demo", "--no-server"]
        environment = {**os.environ, "COLUMNS": "80"}
        ran = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        printed = "\n".join(map(str.rstrip, ran.stdout.splitlines())) + "\n"
        (DOCS / "demo.txt").write_text(printed)
        quote(printed.split("\n\n")[1])
        page_file = Path(folder) / "runs/demo.html"
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"), args=FLAGS
            )
            for scheme in ("light", "dark"):
                page = browser.new_page(
                    viewport={"width": 1280, "height": 800},
                    color_scheme=scheme,
                    device_scale_factor=1.5,
                )
                page.goto(f"{page_file.as_uri()}#step={STEP}")
                page.wait_for_selector(".transport")
                page.wait_for_timeout(300)
                page.screenshot(path=DOCS / f"picture-{scheme}.png")
            browser.close()
    print(f"wrote {DOCS}/demo.txt, picture-light.png, picture-dark.png")


def quote(board: str) -> None:
    """Put the board into the README, where it quotes the run."""
    readme = DOCS.parent / "README.md"
    before, after = readme.read_text().split("pictured run printed:\n\n```\n")
    rest = after[after.index("```") :]
    readme.write_text(f"{before}pictured run printed:\n\n```\n{board}\n{rest}")


if __name__ == "__main__":
    main()
