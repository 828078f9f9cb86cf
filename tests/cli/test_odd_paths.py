"""Paths that are no files, empty or hostile: refused at once, in one line that is safe to print."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tests.cli.command import Result, Shell
from tests.cli.records import refused


@pytest.mark.parametrize("kind", ["fifo", "socket", "device", "folder"])
@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("view", "odd.pt", "--port", 0), "odd.pt is "),
        (("view", "odd.pt", "--html", "page.html"), "odd.pt is "),
        (("evaluate", "odd.pt"), "odd.pt "),
        (("train", "--resume", "odd.pt"), "odd.pt "),
        (("train", "--resume", "."), "step-00000002.pt "),
        (("train", "bn-x5", "--out", "log"), "out=log cannot be used: log/log.jsonl is not a reg"),
        (("bench", "norm", "--shapes", "8x4", "--out", "."), "norm.csv is not a regular file"),
        (("bench", "step", "--out", "."), "norm.csv is not a regular file"),
        (("demo", "--dataset=fashion-mnist", "--data-dir=."), "train-images-idx3-ubyte is not"),
        (("train", "bn-x5", "--data=mnist", "--data-dir=."), "train-images-idx3-ubyte is not"),
        (("reproduce", "--all", "--data-dir=."), "train-images-idx3-ubyte is not a regular fil"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_is_no_regular_file(
    shell: Shell, tmp_path: Path, kind: str, args: tuple[object, ...], said: str
) -> None:
    (tmp_path / "log").mkdir()
    names = ("odd.pt", "step-00000002.pt", "log/log.jsonl", "norm.csv", "train-images-idx3-ubyte")
    for path in (tmp_path / name for name in names):
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            os.mknod(path, stat.S_IFSOCK | 0o600)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            path.mkdir()
    before = sorted(tmp_path.rglob("*"))
    complaint = shell(*args, folder=tmp_path).refused()
    assert said in complaint
    left = [path for path in sorted(tmp_path.rglob("*")) if path.name != "lock"]
    assert left == before


def test_a_tilde_is_the_home_folder(shell: Shell, tmp_path: Path) -> None:
    """A shell leaves it as it is in ``--out=~/run``."""
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "images").mkdir(parents=True)
    elsewhere.mkdir()

    def run(*args: object) -> Result:
        return shell(*args, folder=elsewhere, env={"HOME": str(home)})

    small = ("--size=8", "--width=0.125", "--batch-size=8", "--device=cpu", "--keep=9")
    run("train", "bn-x5", *small, "--steps=1", "--out=~/run").ok()
    run("train", "--resume=~/run", "--steps=2").ok()
    run("train", "--resume", "~/run/step-00000002.pt", "--steps=3").ok()
    assert run("evaluate", "~/run", "~/run/step-00000001.pt").ok().count("top-1 error") == 3
    run("demo", "--no-server", "--steps=1", "--out=~/demo").ok()
    run("view", "~/demo.sqlite", "--html=~/page.html").ok()
    one = ("--shapes=4x2", "--ops=bn", "--formats=fp32-nchw", "--seconds=0", "--threads=1")
    run("bench", "norm", *one, "--out=~/bench").ok()
    for args in (
        ("demo", "--dataset=fashion-mnist"),
        ("train", "bn-x5", "--data=mnist"),
        ("reproduce", "ensemble"),
    ):
        assert f"{home}/images has no train-images" in run(*args, "--data-dir=~/images").refused()
    left = {"bench", "demo.html", "demo.sqlite", "images", "page.html", "run"}
    assert {path.name for path in home.glob("[!.]*")} == left
    assert list(elsewhere.iterdir()) == []


def test_paths_that_are_empty(shell: Shell, crowded: Path) -> None:
    for args in (
        ("train", "bn-x5", "--out="),
        ("train", "bn-x5", "--data=mnist", "--data-dir="),
        ("train", "--resume="),
        ("evaluate", ""),
        ("evaluate", "x.pt", "--data-dir="),
        ("view", ""),
        ("demo", "--data-dir="),
        ("reproduce", "--all", "--out="),
        ("reproduce", "--all", "--data-dir="),
        ("bench", "norm", "--out="),
        ("bench", "all", "--out="),
    ):
        assert "'' is not a path; give the path of a file or folder" in refused(
            shell, crowded, *args
        )


@pytest.mark.parametrize("option", ["", "=.", "--no-server"])
def test_a_port_is_looked_at_even_where_it_is_not_used(
    shell: Shell, crowded: Path, option: str
) -> None:
    args = ("view", "taken.sqlite", "--html", "new.html") if not option else ("demo", option)
    args = args if option != "=." else ("demo", "--preset", "bald")
    said = refused(shell, crowded, *args, "--port", -1)
    assert said == "port=-1 must be between 0 and 65535 (0: any free one)"


@pytest.mark.parametrize(
    "args",
    [
        ("view", "\x1b]0;owned\x07\x9b\n.sqlite"),
        ("view", "taken.sqlite", "--html", "file/\x1b[2J"),
        ("evaluate", "\x1b[2J\x9b.pt"),
        ("train", "--resume", "\x1b[2J"),
        ("train", "bn-x5", "--out", "file/\x1b[2J"),
        ("train", "bn-x5", "--data", "folder", "--data-dir", "\x1b[2J"),
        ("demo", "--out", "file/\x1b[2J"),
        ("demo", "--dataset", "fashion-mnist", "--data-dir", "\x1b[2J"),
        ("demo", "--preset", "\x1b[2J"),
        ("demo", "\x1b[2J"),
        ("\x1b[2J",),
        ("reproduce", "\x1b[2J"),
        ("reproduce", "--all", "--out", "file/\x1b[2J"),
        ("bench", "norm", "--out", "file/\x1b[2J"),
        ("bench", "norm", "--shapes", "\x1b[2J"),
    ],
    ids=lambda args: args[0].strip("\x1b[]"),
)
def test_a_complaint_cannot_command_the_terminal(
    shell: Shell, crowded: Path, args: tuple[str, ...]
) -> None:
    assert refused(shell, crowded, *args).isprintable()


def test_a_complaint_is_not_endless(shell: Shell, tmp_path: Path) -> None:
    for args in (
        ("demo", "--steps", "9" * 4000),
        ("demo", "--steps", "9" * 5000),
        ("demo", "--activation", "y" * 5000),
        ("bench", "norm", "--shapes", f"{'9' * 4300}x4"),
        ("bench", "norm", "--shapes", "9" * 5000),
        ("train", "bn-x5", "--batch-size", "9" * 4000),
    ):
        assert len(refused(shell, tmp_path, *args)) < 1010
