"""A page hears a run as it is recorded, from where it left off, until it has ended."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
import pytest

from gammabeta.signal import Record
from gammabeta.view import Server, stream
from tests.signal.recorded import fill, summary
from tests.view.heard import Event, events, joined, listen, rows
from tests.view.shown import told


def test_a_finished_run_is_told_and_ended(site: str, recorded: Path) -> None:
    heard = listen(site)
    assert joined(heard) == rows(told(recorded))
    assert [e.kind for e in heard] == ["message", "end"]
    assert heard[-1].data == "finished"
    assert heard[0].id == heard[0].data["cursor"] == told(recorded)["cursor"]


def test_one_who_has_it_all_hears_only_the_end(site: str, recorded: Path) -> None:
    heard = listen(site, told(recorded)["cursor"])
    assert [(e.kind, e.data) for e in heard] == [("end", "finished")]


@pytest.mark.parametrize("way", ["after", "last-event-id"])
def test_one_who_comes_back_hears_exactly_the_rest(
    site: str, recorded: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_MOST_FRAMES", 32)
    first = listen(site)[0]
    assert len(first.data["frames"]["step"]) == 32
    # A browser repeats the address it began with, and names the last event it had.
    rest = listen(site, first.id) if way == "after" else listen(site, "", last=first.id)
    assert [e.kind for e in rest] == ["message", "message", "end"]
    assert joined([first, *rest]) == rows(told(recorded))


@pytest.mark.parametrize("after", ["x", "1", "0:0", "a.1.2.3", "a.1.2.3.x", f"a.{10**30}.0.0.0"])
@pytest.mark.parametrize("way", ["after", "last-event-id"])
def test_a_bad_cursor(site: str, after: str, way: str) -> None:
    query, headers = (after, {}) if way == "after" else ("", {"Last-Event-ID": after})
    answer = httpx.get(f"{site}events", params={"after": query}, headers=headers)
    assert answer.status_code == 400
    assert answer.json() == {"error": f"after={after!r} is not a cursor of run.json"}


@pytest.mark.parametrize("counts", ["80.80.0.99.0", "81.0.0.0.0", "80.80.0.0.9"])
def test_a_cursor_of_another_run(site: str, recorded: Path, counts: str) -> None:
    own = told(recorded)["cursor"].split(".")[0]
    for epoch in ("000000000000", own):
        (heard,) = listen(site, f"{epoch}.{counts}")
        assert (heard.kind, heard.data) == (
            *("trouble", "the run was begun anew or continued; reload the page"),
        )


def test_a_run_is_heard_as_it_is_recorded(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, Server(record.path, 0) as running:
        fill(record, 1)
        record.flush()
        known = httpx.get(f"{running.url}run.json").json()
        assert known["status"] == "running"
        heard: list[Event] = []
        address = f"{running.url}events?after={known['cursor']}"
        with httpx.stream("GET", address, timeout=20) as response:
            stream_ = events(response)
            for step in range(2, 6):
                arm = record.arm(f"arm of step {step}")
                probe = record.probe(arm, 1, "fc", "z", None)
                record.write(arm, step, {"loss": step / 7}, {probe: summary(step)})
                record.mark(arm, step, "a word")
                record.flush()
                got: list[Event] = []  # before anything else is recorded
                while not (got and joined(got)["marks"]):
                    got.append(next(stream_))
                new = joined(got)
                assert new["frames"] == [(arm, step, 0.0)]
                assert new["marks"] == [{"arm": arm, "step": step, "text": "a word"}]
                assert [p["id"] for p in new["probes"]] == [probe]
                assert got[-1].data["arms"][-1]["name"] == f"arm of step {step}"
                heard += got
            record.close("interrupted")
            heard.extend(stream_)
        assert {e.kind for e in heard[:-1]} == {"message"}
        assert (heard[-1].kind, heard[-1].data) == ("end", "interrupted")
        assert rows(known, *(e.data for e in heard[:-1])) == rows(told(record.path))


def test_it_answers_a_page_while_others_listen(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record, Server(record.path, 0) as running:
        fill(record, 1)
        record.flush()
        with (
            httpx.stream("GET", f"{running.url}events", timeout=20) as one,
            httpx.stream("GET", f"{running.url}events", timeout=20) as two,
        ):
            first, second = events(one), events(two)
            assert next(first).data == next(second).data
            assert httpx.get(f"{running.url}run.json").status_code == 200
            record.close()
            assert [e.data for e in first] == [e.data for e in second] == ["finished"]


def test_two_runs_are_heard_until_both_have_ended(tmp_path: Path) -> None:
    with Record(tmp_path / "one") as one, Record(tmp_path / "two") as two:
        for record in (one, two):
            fill(record, 1, ("model",))
            record.flush()
        with Server([one.path, two.path], 0) as running:
            known = httpx.get(f"{running.url}run.json").json()
            address = f"{running.url}events?after={known['cursor']}"
            with httpx.stream("GET", address, timeout=20) as response:
                stream_ = events(response)
                one.close()
                two.write(0, 5, {"loss": 0.5}, {0: summary(5)})
                two.flush()
                news = next(stream_)
                assert joined([news])["frames"] == [(1, 5, 0.0)]
                two.close()
                assert [e.kind for e in stream_][-1] == "end"


def test_a_run_that_is_begun_anew_while_a_page_listens(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        fill(record, 3)
    with Server(record.path, 0) as running:
        cursor = httpx.get(f"{running.url}run.json").json()["cursor"]
        with Record(record.path, overwrite=True):
            time.sleep(0.2)
            (heard,) = listen(running.url, cursor)
        assert (heard.kind, "was begun anew" in heard.data) == ("trouble", True)
        assert httpx.get(f"{running.url}run.json").json()["frames"]["step"] == []
