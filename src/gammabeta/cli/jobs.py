"""Claims put to the test side by side, each in a process of its own.

A claim's networks are too small for more than one thread. Its results are the same in any process:
each is kept as soon as there is one, and what two claims share is waited for.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Generator
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from gammabeta.cli.claim_bars import Bars
from gammabeta.lab.claims.framework import results
from gammabeta.lab.claims.framework.claim import Claim, Outcome
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.registry import claim as named

MOST = 4
"""Claims at a time unless more are asked for: each has the images in memory, half a gigabyte."""
_LOOK = 0.5

Done = tuple[Claim, Outcome, float]


def usual(claims: int) -> int:
    """Return how many of so many claims run at a time: one a core, at most `MOST`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, MOST, claims))


def put_to_the_test(claim: Claim, context: Context) -> tuple[Outcome, float]:
    """Run ``claim`` on one thread, and keep what came out; also its seconds."""
    torch.set_num_threads(1)  # with small tensors a second one only waits for the first
    bound = context.of(claim)
    outcome = claim.run(bound)
    seconds = sum(bound.seconds)
    results.keep(context, claim, outcome, seconds)
    return outcome, seconds


def side_by_side(claims: list[Claim], context: Context, jobs: int, bars: Bars) -> Generator[Done]:
    """Run ``claims``, ``jobs`` at a time, the longest first; yield each when it is done.

    Raises:
        Exception: what one of them raised; the others are stopped, and keep what they had.
        ChildProcessError: a process died.
    """
    spawn = multiprocessing.get_context("spawn")
    events: Any = spawn.Queue()
    waiting = sorted(claims, key=lambda claim: -_minutes(claim, context))
    running: dict[str, tuple[BaseProcess, Claim, Any]] = {}
    died: dict[str, float] = {}
    open_names = {claim.name for claim in claims}
    try:
        while waiting or running:
            ready = [claim for claim in waiting if not open_names & set(claim.after)]
            for claim in ready[: jobs - len(running)]:
                process: BaseProcess = spawn.Process(
                    target=_work, args=(claim.name, context, events), daemon=True
                )
                process.start()
                running[claim.name] = process, claim, bars.add(claim.name)
                waiting.remove(claim)
            name, what, given = _next(events, running, died)
            process, claim, row = running[name]
            if what not in ("outcome", "error"):
                getattr(row, what)(*given)
                continue
            process.join()
            row.close()
            del running[name]
            open_names.remove(name)
            if what == "error":
                raise given
            yield claim, *given
    finally:
        for process, *_ in running.values():
            process.terminate()
        for process, *_ in running.values():
            process.join()


def _minutes(claim: Claim, context: Context) -> float:
    return claim.minutes_quick if context.quick else claim.minutes_full


def _next(events: Any, running: dict[str, Any], died: dict[str, float]) -> tuple[str, str, Any]:
    """The next event; raises if a process died without a last one.

    ``died`` has when each was first seen dead: what it had still sent may be on its way.
    """
    while True:
        event: tuple[str, str, Any] | None = None
        with contextlib.suppress(queue.Empty):
            event = events.get(timeout=_LOOK)
        now = time.monotonic()
        for name, (process, *_) in running.items():
            if process.is_alive() or (event is not None and event[0] == name):
                continue
            if now - died.setdefault(name, now) > 2 * _LOOK:
                raise ChildProcessError(
                    f"the process of {name} ended unexpectedly ({_how(process.exitcode)}); the "
                    "finished results are kept; run the same command again to continue"
                )
        if event is not None:
            return event


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, possibly out of memory" if name == "SIGKILL" else name


class _Told:
    """Progress of a claim, told to the process that waits for it."""

    def __init__(self, name: str, events: Any) -> None:
        self._name, self._events = name, events
        self._last = 0.0

    def plan(self, runs: int) -> None:
        self._send("plan", runs)

    def begin(self, label: str) -> None:
        self._send("begin", label)

    def within(self, fraction: float) -> None:
        now = time.monotonic()
        if now - self._last > _LOOK:  # a bar needs no more
            self._last = now
            self._send("within", fraction)

    def done(self, label: str, was_kept: bool) -> None:
        self._send("done", label, was_kept)

    def _send(self, what: str, *given: Any) -> None:
        self._events.put((self._name, what, given))


def _end_with_the_first() -> None:
    """A first process that is killed cannot end the others: they look after it themselves."""
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
        os._exit(1)


def _work(name: str, context: Context, events: Any) -> None:
    """What a process does. Ctrl-C reaches all of a terminal's; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()
    try:
        told = context.following(_Told(name, events))
        done = put_to_the_test(named(name), told)
    except Exception as e:  # told by the process that waits
        events.put((name, "error", e))
    else:
        events.put((name, "outcome", done))
