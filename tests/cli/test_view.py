"""``gammabeta view``: a run served or put into a file, and left as it was."""

from __future__ import annotations

import csv
import os
import signal
from pathlib import Path

import httpx
import pytest

from gammabeta.signal import Record, Run
from tests.cli.command import Shell, start
from tests.cli.records import recorded, shown, tree
from tests.signal.recorded import fill


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with Record(tmp_path / "run", "A title") as record:
        fill(record, 3)
    return record.path


def test_one_file(shell: Shell, run: Path, tmp_path: Path) -> None:
    content = run.read_bytes()
    printed = shell("view", "run.sqlite", "--html", "new/page.html", folder=tmp_path).ok()
    page = tmp_path / "new" / "page.html"
    assert printed == f"wrote new/page.html ({page.stat().st_size / 1e6:.1f} MB)\n"
    assert shown(page) == recorded(run)
    assert page.stat().st_size > 20_000
    assert run.read_bytes() == content
    assert set(tree(tmp_path)) == {"run.sqlite", "new", "new/page.html"}


def test_from_another_folder(shell: Shell, run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path, name in ((run, "a.html"), (Path("..", run.name), "b.html")):
        shell("view", path, "--html", name, folder=elsewhere).ok()
        assert shown(elsewhere / name) == recorded(run)


def test_several_runs_and_a_folder(shell: Shell, run: Path, tmp_path: Path) -> None:
    with Record(tmp_path / "more" / "second") as record:
        fill(record, 2)
    shell("view", "run", "more", "--html", "both.html", folder=tmp_path).ok()
    both = shown(tmp_path / "both.html")
    assert [each["name"] for each in both["runs"]] == ["run", "second"]
    expected = recorded(run, record.path)
    del both["cursor"], expected["cursor"]
    assert both == expected


def test_a_table(shell: Shell, run: Path, tmp_path: Path) -> None:
    printed = shell("view", "run", "--table", "numbers.csv", folder=tmp_path).ok()
    size = (tmp_path / "numbers.csv").stat().st_size
    assert printed == f"wrote numbers.csv ({size / 1e3:.0f} kB)\n"
    with (tmp_path / "numbers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 8
    with Run(run) as opened:
        first = next(opened.frames())
        means = [summary.mean for summary in first.signals.values()]
    assert [float(row["mean"]) for row in rows[:8]] == means
    printed = shell("view", "run", "--table", "a.csv", "--html", "a.html", folder=tmp_path).ok()
    assert [line.split()[1] for line in printed.splitlines()] == ["a.html", "a.csv"]


def test_a_page_for_others_needs_the_token_that_is_printed(run: Path, tmp_path: Path) -> None:
    with start("view", run, "--port", 0, "--host", "127.0.0.1", folder=tmp_path) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "A title\n"
        url = command.stdout.readline().rstrip("\n").split("  ")[0]
        address, token = url.split("?token=")
        assert len(token) >= 32
        assert httpx.get(f"{address}run.json").status_code == 403
        assert httpx.get(f"{address}run.json?token={token}").json() == recorded(run)
        command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=20)
    assert (command.returncode, out, err) == (0, "stopped; the record is unchanged\n", "")


def test_interrupted_while_a_page_listens(tmp_path: Path) -> None:
    """The run goes on elsewhere; ending the view ends neither it nor in an error."""
    with Record(tmp_path / "run", "A title") as record:
        fill(record, 1)
        record.flush()
        with start("view", "run.sqlite", "--port", 0, folder=tmp_path) as command:
            assert command.stdout is not None
            assert command.stdout.readline() == "A title\n"
            url, hint = command.stdout.readline().rstrip("\n").split("  ")
            assert hint == "(press Ctrl-C to stop)"
            assert httpx.get(f"{url}run.json").json() == recorded(record.path)
            with httpx.stream("GET", f"{url}events", timeout=20) as response:
                lines = response.iter_lines()
                assert any(line.startswith("data: ") for line in lines)
                command.send_signal(signal.SIGINT)
                out, err = command.communicate(timeout=20)
        assert (command.returncode, out, err) == (0, "stopped; the record is unchanged\n", "")
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
    assert recorded(record.path)["status"] == "finished"


def test_a_title_cannot_command_the_terminal(shell: Shell, tmp_path: Path) -> None:
    with Record(tmp_path / "run", "\x1b]0;owned\x07\x1b[2J[bold]γ · ok\r\n") as record:
        fill(record, 1)
    before = tree(tmp_path)
    done = shell("view", "run.sqlite", "--port", 0, folder=tmp_path, interrupt=1.0)
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines()[0] == "�]0;owned��[2J[bold]γ · ok��"
    assert done.out.endswith("stopped; the record is unchanged\n")
    assert "\x1b" not in done.out
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(shell: Shell, run: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        complaint = shell("view", "run.sqlite", "--html", "a.html", folder=tmp_path).refused()
        assert complaint == "a.html cannot be written: Permission denied"
        complaint = shell("demo", "--no-server", folder=tmp_path).refused()
        assert complaint == "runs/demo.sqlite cannot be created: Permission denied"
    finally:
        tmp_path.chmod(0o755)
