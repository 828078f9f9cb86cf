"""``gammabeta view``: a run served or put into a file, and left as it was."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from gammabeta.signal import Record
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
    assert run.read_bytes() == content
    assert set(tree(tmp_path)) == {"run.sqlite", "new", "new/page.html"}


def test_from_another_folder(shell: Shell, run: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path, name in ((run, "a.html"), (Path("..", run.name), "b.html")):
        shell("view", path, "--html", name, folder=elsewhere).ok()
        assert shown(elsewhere / name) == recorded(run)


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
