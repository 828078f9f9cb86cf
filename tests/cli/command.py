"""The command line as a person has it: started as a process, or forked from one that is warm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PROGRAM = [str(Path(sys.executable).with_name("gammabeta"))]
"""What ``pip install`` put on the path."""

_HEAR_INTERRUPTS = (
    "import os, signal, sys;"
    "signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""A shell that runs the tests in the background has its children ignore SIGINT; undo that."""


def environment() -> dict[str, str]:
    """A plain terminal of 80 columns, without colours, without a display."""
    kept = ("PATH", "HOME", "SYSTEMROOT", "TMPDIR", "LD_LIBRARY_PATH")
    plain = {"COLUMNS": "80", "TERM": "dumb", "LC_ALL": "C.UTF-8"}
    return {name: os.environ[name] for name in kept if name in os.environ} | plain


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    def ok(self) -> str:
        """Return the output of a command that went well and complained of nothing."""
        assert (self.code, self.err) == (0, ""), self
        return self.out

    def refused(self) -> str:
        """Return the complaint of a command that was refused as every one should be."""
        assert self.code == 2, self
        assert self.out == "", self
        assert self.err.startswith("gammabeta: "), self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err
        return self.err.removeprefix("gammabeta: ").rstrip("\n")


def gammabeta(*args: object, folder: Path, **options: Any) -> Result:
    """Run the command in a process of its own; ``options`` are `subprocess.run`'s,
    and ``program`` what to start."""
    done = subprocess.run(
        [*options.pop("program", PROGRAM), *map(str, args)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        timeout=120,
        **options,
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(*args: object, folder: Path, **options: Any) -> subprocess.Popen[str]:
    """Start the command, to be read from and interrupted."""
    return subprocess.Popen(
        [sys.executable, "-c", _HEAR_INTERRUPTS, *PROGRAM, *map(str, args)],
        cwd=folder,
        env={**environment(), "PYTHONUNBUFFERED": "1", **options.pop("env", {})},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options},
    )


class Shell:
    """Runs many commands, each in a process forked from a warm one; a context manager."""

    def __init__(self) -> None:
        self._program = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("forking.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def __call__(
        self,
        *args: object,
        folder: Path,
        env: Mapping[str, str] | None = None,
        interrupt: float = 0.0,
    ) -> Result:
        """Run ``gammabeta ARGS`` in ``folder``; Ctrl-C after ``interrupt`` seconds, if not 0."""
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        with tempfile.TemporaryDirectory() as scratch:
            out, err = Path(scratch, "out"), Path(scratch, "err")
            request = {
                "args": [str(arg) for arg in args],
                "folder": str(folder),
                "out": str(out),
                "err": str(err),
                "env": dict(env or {}),
                "interrupt": interrupt,
            }
            self._program.stdin.write(json.dumps(request) + "\n")
            self._program.stdin.flush()
            answer = self._program.stdout.readline()
            assert answer, "the warm process has ended"
            return Result(int(answer), out.read_text("utf-8"), err.read_text("utf-8"))

    def __enter__(self) -> Shell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._program.communicate()  # an end of its input is its end
