"""A real Chromium, recorded runs for it to show, and a page that may not complain."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from gammabeta.lab.data.flat import load
from gammabeta.lab.demo.pair import Pair
from gammabeta.lab.demo.presets import Settings
from gammabeta.signal import Record, Run
from gammabeta.signal.summary import summarize
from gammabeta.view import export

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

Open = Callable[..., Page]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if program is None:
        pytest.skip("no Chromium: install it, or name it in CHROMIUM")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Open]:
    """Open a URL in a page of its own; when the test ends no page may have complained."""
    contexts: list[BrowserContext] = []
    complaints: list[str] = []

    def open_(url: str, may_fail: str = "", **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on(
            "console",
            lambda message: (
                complaints.append(f"{message.type}: {message.text} ({message.location['url']})")
                if message.type in ("error", "warning")
                and not (may_fail and may_fail in message.text)
                else None
            ),
        )
        page.goto(url)
        page.wait_for_selector(".transport, .message")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A record of the demonstration's default run, shorter."""
    path = tmp_path_factory.mktemp("demo") / "run.sqlite"
    settings = Settings(steps=90)
    with Record(path, settings.title(), {"note": "A note about the run."}) as record:
        for _ in Pair(settings, load("digits"), record).train():
            pass
    with Run(path) as run:
        export(run, path.with_suffix(".html"))
    return path


@pytest.fixture(scope="session")
def demo_page(demo: Path) -> str:
    """The URL of the exported demonstration, as opened from disk."""
    return demo.with_suffix(".html").as_uri()


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., str]:
    """Record a run by hand and return the URL of its page."""

    def make(
        arms: dict[str, list[float]],
        layers: int = 2,
        title: str = "made",
        note: str = "",
        name: str = "layer",
        spoil: float | None = None,
    ) -> str:
        """arms: name → a loss for each step; spoil: put into the first layer when not finite."""
        path = tmp_path / "made.sqlite"
        noise = torch.Generator().manual_seed(0)
        with Record(path, title, {"note": note}) as record:
            for arm, losses in arms.items():
                number = record.arm(arm)
                stages = (
                    ["z", "normalized", "affine", "activation"]
                    if "with " in arm
                    else ["z", "activation"]
                )
                for step, loss in enumerate(losses, 1):
                    signals = {}
                    for layer in range(1, layers + 1):
                        for stage in stages:
                            x = torch.randn(64, 8, generator=noise) * layer
                            if spoil is not None and not math.isfinite(loss):
                                x[0, 0] = spoil
                            probe = record.probe(number, layer, f"{name}.{layer}", stage, "relu")
                            signals[probe] = summarize(x.relu() if stage == "activation" else x)
                    record.write(number, step, {"loss": loss}, signals)
        with Run(path) as run:
            return export(run, tmp_path / "made.html").as_uri()

    return make
