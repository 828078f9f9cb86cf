"""Random command lines, most of them wrong in some way: one line of complaint, or they work.

A command may not end in a traceback, by a signal or not at all, and one that is refused may have
made or changed nothing.
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import typer
from PIL import Image

from gammabeta.cli import app
from gammabeta.signal import Record
from tests.cli.command import Result, Shell
from tests.cli.records import tree
from tests.signal.recorded import fill

JUNK = ("", " ", "-1", "0", "1", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "0x10", "½")
JUNK += (
    "a",
    "é\udcff".encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
    "[/red]",
    "..",
)
JUNK += ("\x1b[31mred", "a\nb", "/", "/dev/null", "/dev/zero", "/proc/self/mem", "~", "~nobody/x")
JUNK += (
    "n" * 300,
    "é",
    "--",
    "-",
    "a,b",
    "1,",
    ",",
    "None",
    "true",
    "3x4",
    "99999x99999x9999x9999",
)
FILES = (
    "run.sqlite",
    "fifo",
    "folder",
    "empty",
    "text",
    "gone",
    "run.html",
    "sealed.pt",
    "nothing",
)

# What is given first: it keeps a command that is right after all from taking long.
SHORT: dict[str, list[str]] = {
    "demo": ["--no-server", "--steps=1"],
    "view": ["--html=page.html"],
    "train": ["bn-x5", "--steps=1", "--batch-size=2", "--data=folder", "--data-dir=pictures"],
    "evaluate": ["--device=cpu"],
    "reproduce": ["no-such-claim"],
    "bench norm": ["--quick", "--seconds=0.01", "--shapes=4x2x2x2"],
    "bench step": ["--quick", "--seconds=0.01", "--model=no-such-model"],
    "info": [],
}
LONG = {"train": ["--size=32", "--width=0.125", "--device=cpu"]}
SECONDS = 60.0


def options() -> dict[str, list[str]]:
    """Return the options of each command that take a value, as the command line declares them."""
    found = {}
    for name in SHORT:
        command = typer.main.get_command(app)
        for part in name.split():
            command = command.commands[part]  # type: ignore[attr-defined]
        taking = [p for p in command.params if p.param_type_name == "option"]
        found[name] = [p.opts[0] for p in taking if not p.is_flag and p.name != "help"]
    return found


OPTIONS = options()


def prepare(folder: Path) -> None:
    """Put one of each kind of file into ``folder``."""
    with Record(folder / "run") as record:
        fill(record, 2)
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text("name,age\nada,36\n")
    (folder / "gone").symlink_to("nowhere")
    (folder / "run.html").write_text("mine")
    (folder / "sealed.pt").write_bytes(b"PK" + bytes(200))
    for kind in ("cat", "dog"):
        (folder / "pictures" / kind).mkdir(parents=True)
        for i in range(6):
            picture = Image.new("RGB", (32, 32), (40 * i, 0, 0))
            picture.save(folder / "pictures" / kind / f"{i}.png")


def line(draw: random.Random) -> list[str]:
    """Draw a command line."""
    command = draw.choice(list(SHORT))
    args = command.split()
    if command in ("view", "evaluate"):
        args.append(draw.choice(FILES))
    args += SHORT[command] + LONG.get(command, [])
    for _ in range(draw.randint(0, 3)):
        value = draw.choice(JUNK + FILES)
        how = draw.random()
        name = draw.choice(OPTIONS[command] or ["--version"])
        if how < 0.8:
            args.append(f"{name}={value}")
        elif how < 0.9:
            args += [name, value]
        else:
            args.append(value)
    if draw.random() < 0.05:
        draw.shuffle(args)
    return [a.replace("\0", "") for a in args]


def fault(result: Result, changed: bool, seconds: float) -> str:
    """Say what is wrong with how a command ended, or nothing."""
    if "Traceback" in result.err or "Traceback" in result.out:
        return f"traceback: {result.err.strip().splitlines()[-1]}"
    if result.code not in (0, 2):
        return f"exit code {result.code}: {result.err[-200:]!r}"
    if seconds > SECONDS / 2:
        return f"took {seconds:.0f} s"
    if result.code == 2:
        if result.err.count("\n") != 1 or not result.err.startswith("gammabeta: "):
            return f"not one line: {result.err!r}"
        if len(result.err) > 1100:
            return f"a line of {len(result.err)} characters: {result.err[:200]!r}"
        if any(not c.isprintable() for c in result.err[:-1]):
            return f"control characters: {result.err!r}"
        if changed:
            return f"refused, but something was made: {result.err!r}"
    return ""


def run(seed: int, first: int, last: int, end: float, say: Callable[[str], None] = print) -> int:
    """Run command lines ``first`` to ``last`` of ``seed`` until ``end``; returns how many fail."""
    wrong = index = 0
    with Shell() as shell, tempfile.TemporaryDirectory() as parent:
        for index in range(first, last):
            if time.monotonic() > end:
                break
            args = line(random.Random(f"{seed}:{index}"))
            folder = Path(parent, str(index))
            folder.mkdir()
            prepare(folder)
            before, began = tree(folder), time.monotonic()
            result = shell(*args, folder=folder, env={"HOME": str(folder / "folder")})
            said = fault(result, tree(folder) != before, time.monotonic() - began)
            if said:
                wrong += 1
                say(f"WRONG commands {index}: {args}\n  {said}")
            shutil.rmtree(folder)
        else:
            index = last
    say(f"commands: {index - first:,} lines, {wrong} wrong")
    return wrong
