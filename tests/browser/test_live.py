"""The live page: frames arrive while it is open, a lost connection heals, the end is heard."""

from __future__ import annotations

from pathlib import Path

import torch
from playwright.sync_api import expect

from gammabeta.signal import Record
from gammabeta.signal.summary import summarize
from gammabeta.view import Server
from tests.browser.test_playback import step_shown
from tests.browser.waiting import until


def write(record: Record, *steps: int) -> None:
    arm = record.arm("with batch norm")
    for step in steps:
        probe = record.probe(arm, 1, "first", "z", "tanh")
        record.write(arm, step, {"loss": 1 / step}, {probe: summarize(torch.randn(256) * step)})
    record.flush()


def test_frames_arrive_and_the_end_is_heard(open_page, tmp_path: Path) -> None:
    with Record(tmp_path / "live", "a live run") as record, Server(record.path, 0) as server:
        page = open_page(server.url)
        expect(page.get_by_text("No frame yet")).to_be_visible()
        expect(page.locator(".status")).to_have_text("live")
        write(record, *range(1, 6))
        until(lambda: step_shown(page) == 5)
        expect(page.locator(".status")).to_have_text("live · step 5")
        page.keyboard.press("Home")  # the person looks back: what arrives must not carry them off
        write(record, 6, 7)
        expect(page.locator(".status")).to_have_text("live · step 7")
        assert step_shown(page) == 1
        page.keyboard.press("End")
        assert step_shown(page) == 7
        record.close()
        expect(page.locator(".status")).to_be_hidden()
        with page.expect_download() as download:
            page.get_by_role("link", name="Save as one HTML file").click()
        saved = tmp_path / "saved.html"
        download.value.save_as(saved)
    # The server has gone; the page that was open works on, and so does the saved file.
    page.keyboard.press("ArrowLeft")
    assert step_shown(page) == 6
    again = open_page(saved.as_uri() + "#step=6")
    assert step_shown(again) == 6


def test_a_real_model_is_followed_as_it_trains(open_page, tmp_path: Path) -> None:
    def step(number: int) -> None:
        signals = {probe: summarize(torch.randn(256) * number) for probe in probes}
        record.write(arm, number, {"loss": 1 / number}, signals)
        record.flush()

    with Record(tmp_path / "live", "a real model") as record, Server(record.path, 0) as server:
        arm = record.arm("model")
        probes = [record.probe(arm, i, f"blocks.{i}.fc", "z", "relu") for i in range(1, 31)]
        step(1)
        page = open_page(server.url)
        until(lambda: step_shown(page) == 1)
        rows = page.get_by_role("treeitem")
        first = rows.nth(1).get_attribute("aria-label")
        for number in (2, 3):
            step(number)
            until(lambda number=number: step_shown(page) == number)
        until(lambda: rows.nth(1).get_attribute("aria-label") != first)
        page.keyboard.press("Home")
        # A layer that is seen only now, and a mark.
        probes.append(record.probe(arm, 31, "head", "z", None))
        record.mark(arm, 4, "a head")
        step(4)
        expect(page.locator(".count")).to_have_text("31 layers")
        assert step_shown(page) == 1
        record.close()
        expect(page.locator(".status")).to_be_hidden()
        page.close()


def test_a_lost_connection_is_said_and_healed(open_page, tmp_path: Path) -> None:
    with Record(tmp_path / "live", "a live run") as record:
        write(record, 1, 2)
        server = Server(record.path, 0).start()
        port = int(server.url.rsplit(":", 1)[1].strip("/"))
        page = open_page(server.url, may_fail="Failed to load resource")
        until(lambda: step_shown(page) == 2)
        server.stop()
        expect(page.locator(".status")).to_have_text("connection lost, trying again")
        write(record, 3, 4)
        with Server(record.path, port):
            expect(page.locator(".status")).to_have_text("live · step 4", timeout=15_000)
            page.keyboard.press("End")
            assert step_shown(page) == 4
            record.close()
            expect(page.locator(".status")).to_be_hidden()


def test_a_run_that_cannot_be_read_is_explained(open_page, tmp_path: Path) -> None:
    path = tmp_path / "broken.sqlite"
    path.write_bytes(b"not a run")
    with Server(path, 0) as server:
        page = open_page(server.url, may_fail="503")
        expect(page.get_by_role("alert")).to_contain_text("is not a run recorded by gammabeta")
