"""Ctrl-C, kill −9, a reader that goes away, and surroundings that lack something."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from gammabeta.signal import RecordError, Run
from tests.cli.command import PROGRAM, Shell, environment, start
from tests.cli.records import curve, moments, recorded, shown

ENDLESS = ("--preset", "healthy", "--steps", 1_000_000)


def wait_for_frames(path: Path, frames: int) -> None:
    """Return when the record at ``path`` holds so many."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with Run(path) as run:
                if len(list(run.frames(most=frames))) == frames:
                    return
        except RecordError:
            pass  # not there yet
        time.sleep(0.02)
    raise AssertionError(f"{path} did not come to {frames} frames")


def test_interrupted_in_the_middle(tmp_path: Path) -> None:
    with start("demo", *ENDLESS, "--port", 0, "--out", "run", folder=tmp_path) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == "digits · 4 × 64 tanh · lr 0.1 · init × 1\n"
        url = command.stdout.readline().removeprefix("live page, while it trains: ").strip()
        wait_for_frames(tmp_path / "run.sqlite", 20)
        live = httpx.get(f"{url}run.json").json()
        with httpx.stream("GET", f"{url}events", timeout=30) as response:
            lines = response.iter_lines()
            assert any(line.startswith("data: ") for line in lines)
            command.send_signal(signal.SIGINT)
            rest = list(lines)
        out, err = command.communicate(timeout=30)
    assert (command.returncode, err) == (130, "")
    said = re.fullmatch(
        r"\n?interrupted after step (\d+) of 1000000; the recorded steps are kept\n"
        r"picture  run\.html  \(open it in a browser\)\n"
        r"record   run\.sqlite  \(gammabeta view run\.sqlite\)\n",
        out,
    )
    assert said, out
    run = recorded(tmp_path / "run.sqlite")
    assert run["status"] == "interrupted"
    assert [e for e in rest if e.startswith("event:")] == ["event: end"]
    assert 'data: "interrupted"' in rest  # the page heard of it
    assert live["status"] == "running"
    assert moments(run)[: len(moments(live))] == moments(live)
    step = int(said[1])
    losses = curve(run, 0, "loss")
    assert list(losses) == list(range(1, len(losses) + 1))
    assert len(losses) in (step, step + 1)  # one arm may have been a step ahead
    assert shown(tmp_path / "run.html") == run
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.html", "run.sqlite"]


def test_killed(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "run.sqlite"
    with start("demo", *ENDLESS, "--no-server", "--out", "run", folder=tmp_path) as command:
        wait_for_frames(path, 10)
        shell("view", "run.sqlite", "--html", "during.html", folder=tmp_path).ok()
        assert shown(tmp_path / "during.html")["status"] == "snapshot"
        command.kill()
    shell("view", "run.sqlite", "--html", "after.html", folder=tmp_path).ok()
    during, after = shown(tmp_path / "during.html"), shown(tmp_path / "after.html")
    assert after["status"] == "killed"
    assert after == recorded(path)
    assert len(moments(during)) >= 10
    assert moments(after)[: len(moments(during))] == moments(during)


@pytest.mark.parametrize("closing", [True, False], ids=["closing the record", "waiting"])
def test_interrupted_when_the_training_is_over(tmp_path: Path, closing: bool) -> None:
    """Ctrl-C ends the waiting for a browser that never comes, and the rest is done."""
    args = ("--steps", 2, "--port", 0, "--open", "--out", "run")
    env = {"BROWSER": f"{sys.executable} -c pass %s", "DISPLAY": ":0"}
    path = tmp_path / "run.sqlite"
    with start("demo", *args, folder=tmp_path, env=env) as command:
        wait_for_frames(path, 1)
        with Run(path) as run:  # a reader, for whom the closing of the record waits up to a second
            deadline = time.monotonic() + 60
            while run.status() != "finished" and time.monotonic() < deadline:
                time.sleep(0.002)
            if closing:
                command.send_signal(signal.SIGINT)
        if not closing:
            time.sleep(1)
            assert command.poll() is None  # it waits
            command.send_signal(signal.SIGINT)
        began = time.monotonic()
        out, err = command.communicate(timeout=30)
        assert time.monotonic() - began < 5
    assert (command.returncode, err) == (0, "")
    assert "test accuracy" in out
    assert shown(tmp_path / "run.html")["status"] == "finished"


def status(path: Path) -> str:
    try:
        with Run(path) as run:
            return run.status()
    except RecordError:
        return ""


@pytest.mark.parametrize(
    ("lines", "args"),
    [
        (0, ("info",)),
        (0, ("demo", "--no-server", "--steps", 3, "--out", "run")),
        (1, ("demo", "--no-server", "--steps", 3, "--out", "run")),
    ],
)
def test_a_reader_that_goes_away(tmp_path: Path, lines: int, args: tuple[object, ...]) -> None:
    """As in ``gammabeta info | head -1``: no complaint, whoever closes the pipe and when."""
    with start(*args, folder=tmp_path, env={"PYTHONUNBUFFERED": ""}) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        for _ in range(lines):
            assert command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == ""
        assert command.wait(30) in (0, 1)
    if (tmp_path / "run.sqlite").exists():
        assert status(tmp_path / "run.sqlite") in ("finished", "failed")  # never left open


@pytest.mark.parametrize(
    ("env", "redirect"),
    [
        ({"HOME": None, "TERM": None, "COLUMNS": None, "LC_ALL": "C"}, "<&-"),
        ({"PYTHONIOENCODING": "ascii", "TERM": "xterm"}, "2>&-"),
        ({"PYTHONIOENCODING": "latin-1"}, ">&-"),
    ],
)
def test_surroundings_that_lack_something(
    tmp_path: Path, env: dict[str, str | None], redirect: str
) -> None:
    given = {**environment(), **env}
    command = shlex.join([*PROGRAM, "demo", "--no-server", "--steps=2", "--out=run"])
    done = subprocess.run(
        ["sh", "-c", f"exec {command} {redirect}"],
        cwd=tmp_path,
        env={name: value for name, value in given.items() if value is not None},
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    if redirect != ">&-":
        text = done.stdout.decode("utf-8")
        assert text.startswith("digits ")
        assert text.endswith("record   run.sqlite  (gammabeta view run.sqlite)\n")
        assert ("x̂" in text) == ("PYTHONIOENCODING" not in env)
    assert recorded(tmp_path / "run.sqlite")["status"] == "finished"
    assert shown(tmp_path / "run.html") == recorded(tmp_path / "run.sqlite")


def test_a_name_that_is_not_utf8(shell: Shell, tmp_path: Path) -> None:
    name = os.fsdecode(b"run \xff")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("file names are UTF-8 here")
    printed = shell("demo", "--no-server", "--steps", 2, "--out", name, folder=tmp_path).ok()
    assert "record   run �.sqlite  (gammabeta view run �.sqlite)\n" in printed
    assert shown(tmp_path / f"{name}.html") == recorded(tmp_path / f"{name}.sqlite")


def test_a_terminal(tmp_path: Path) -> None:
    """With somebody watching there is a progress bar, and no browser where there is no display."""
    ours, its = os.openpty()
    env = {**environment(), "TERM": "xterm", "BROWSER": "touch opened"}
    with subprocess.Popen(
        [*PROGRAM, "demo", "--steps=40", "--port=0", "--out=run"],
        cwd=tmp_path,
        env=env,
        stdin=its,
        stdout=its,
        stderr=its,
    ) as command:
        os.close(its)
        output = b""
        try:
            while chunk := os.read(ours, 1 << 16):
                output += chunk
        except OSError:
            pass  # Linux's way to say that the other end has closed
        os.close(ours)
    assert command.returncode == 0
    text = output.decode()
    steps = [int(step) for step in re.findall(r"(\d+)/40\b", text)]
    assert steps == sorted(steps)
    assert steps[-1] == 40
    assert "training" in text
    assert text.endswith("record   run.sqlite  (gammabeta view run.sqlite)\r\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.html", "run.sqlite"]


def test_no_place_for_the_default_name(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("mine")
    complaint = shell("demo", "--no-server", "--steps", 1, folder=tmp_path).refused()
    assert complaint == "runs/demo.sqlite cannot be created: a folder on its way is a file"
    assert (tmp_path / "runs").read_text() == "mine"
