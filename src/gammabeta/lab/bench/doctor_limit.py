"""Other tools in a process of their own, with a time limit: one may wait for ever in a script."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from gammabeta.lab.bench.doctor_set import Script
from gammabeta.lab.bench.doctor_tools import Seen

SECONDS = 60.0
"""Most seconds that a tool may take for one twin."""

Look = Callable[[Script, bool], Seen]


def limited(look: Look, seconds: float = SECONDS) -> Look:
    """Return ``look`` with a time limit; what takes longer has nothing to say, and a note says so.

    Where there is no `os.fork`, there is no limit.

    Args:
        look: runs a tool on one twin of a script.
        seconds: most that it may take.
    """
    if not hasattr(os, "fork"):
        return look

    def within(script: Script, faulty: bool) -> Seen:
        context = multiprocessing.get_context("fork")
        reads, writes = context.Pipe(duplex=False)
        # mypy knows no fork context on every platform
        process: Any = context.Process(target=_work, args=(writes, look, script, faulty))
        process.start()
        writes.close()
        try:
            if not reads.poll(seconds):
                return Seen(seconds=seconds, notes=[f"did not end within {seconds:g} s"])
            result = reads.recv()
        except EOFError:
            result = Seen(notes=["its process ended"])
        finally:
            _end(process)
            reads.close()
        if isinstance(result, Exception):
            raise result
        return result  # type: ignore[no-any-return]

    return within


def _work(writes: Connection, look: Look, script: Script, faulty: bool) -> None:
    os.setsid()  # so that its own processes end with it
    try:
        result: Seen | Exception = look(script, faulty)
    except Exception as error:
        result = error
    writes.send(result)


def _end(process: Any) -> None:
    """End the process, and those that it started."""
    process.join(1)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.join()
