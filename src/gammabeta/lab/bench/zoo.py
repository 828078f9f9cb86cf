"""The zoo: network after network, each in a process of its own, into a table that continues."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import select
import signal
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

from gammabeta.lab.bench.results import here
from gammabeta.lab.bench.zoo_case import Result, examine

LAYOUTS = ("nchw", "channels_last")
SECONDS, WALL = 300, 1800.0
GIB = 8.0

COLUMNS = [field.name for field in fields(Result)]


def layout_of(name: str) -> str:
    """Return the layout a network is compared in: one half of the zoo has each.

    Example:
        >>> sorted({layout_of(f"pytorchcv:resnet{depth}") for depth in (10, 12, 14, 16)})
        ['channels_last', 'nchw']
    """
    return LAYOUTS[zlib.crc32(name.encode()) % 2]


class Zoo:
    """A CSV file of results, one line a network, that grows.

    Args:
        path: of the file; what is in it already is not run again.

    Raises:
        ValueError: there is a file, but not one of results.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.results = read(path) if path.exists() else []
        now = here("default")
        self._versions = (
            f"{now.date[:10]}, torch {now.torch}, gammabeta {now.gammabeta} {now.commit}"
        )

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that have no result yet."""
        done = {result.network for result in self.results}
        return [name for name in dict.fromkeys(names) if name not in done]

    def add(self, result: Result) -> None:
        """Append ``result``, with today's date and the versions in use."""
        result.made = result.made or self._versions
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(_flat(result))
        self.results.append(result)


def read(path: Path) -> list[Result]:
    """Return the results in a file, in its order.

    Raises:
        ValueError: it is not a file of results.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"{path} is not a file of gammabeta bench zoo: its columns differ")
        return [_result(line) for line in reader]


def _flat(result: Result) -> dict[str, object]:
    flat = asdict(result)
    flat["step"] = f"{result.step:.3g}"
    figures = {
        check: [float(f"{value:.2g}") for value in two] for check, two in result.figures.items()
    }
    flat["figures"] = json.dumps(figures)
    flat["failures"] = "; ".join(result.failures)
    return flat


def _result(line: dict[str, str]) -> Result:
    figures = {check: (near, far) for check, (near, far) in json.loads(line["figures"]).items()}
    numbers = {
        name: int(line[name]) for name in ("parameters", "norms", "converted", "fused", "folded")
    }
    return Result(
        line["network"],
        status=line["status"],
        input=line["input"],
        layout=line["layout"],
        **numbers,
        step=float(line["step"]),
        figures=figures,
        failures=line["failures"].split("; ") if line["failures"] else [],
        note=line["note"],
        made=line["made"],
    )


@dataclass(frozen=True)
class Limits:
    """What a network may take.

    Attributes:
        seconds: of processor time, for all of its comparisons.
        wall: seconds by the clock, for one that waits.
        gib: memory beyond what the process has before.
    """

    seconds: int = SECONDS
    wall: float = WALL
    gib: float = GIB


def measure(names: Sequence[str], jobs: int = 1, limits: Limits | None = None) -> Iterator[Result]:
    """Yield the result of one network after the other, as they are done.

    Args:
        names: of networks of the zoo.
        jobs: how many processes run at a time, each with one thread.
        limits: beyond which a network is left out.
    """
    limits = limits or Limits()
    if not hasattr(os, "fork"):
        raise ValueError(f"the zoo needs os.fork, which platform={sys.platform} does not have")
    torch.set_num_threads(1)  # before the first fork: a pool of threads does not survive one
    waiting = list(names)
    running: dict[int, _Child] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                with _uninterrupted():
                    child = _Child(waiting.pop(0), limits)
                    running[child.pipe] = child
            ready, _, _ = select.select(list(running), [], [], 0.2)
            for pipe in ready:
                running[pipe].read()
            for pipe, child in list(running.items()):
                if child.finished or child.late:
                    del running[pipe]
                    yield child.result()
    finally:
        for child in running.values():
            child.result()


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Have Ctrl-C wait: during a fork Python would drop it, and nobody would know the child."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Child:
    """A forked process that examines one network and writes its result into a pipe."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name, self.limits = name, limits
        self.began = time.monotonic()
        self.finished = False
        self._said = b""
        self.pipe, writes = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _work(name, limits, writes)
        os.close(writes)

    @property
    def late(self) -> bool:
        """Whether it has taken more than its time."""
        return time.monotonic() - self.began > self.limits.wall

    def read(self) -> None:
        """Take what it has written; it is finished at the end of that."""
        part = os.read(self.pipe, 1 << 16)
        self._said += part
        self.finished = not part

    def result(self) -> Result:
        """Return what it found, or how it ended; it is over then."""
        if not self.finished:
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        if self.finished and self._said:
            return _result(json.loads(self._said))
        code = os.waitstatus_to_exitcode(status)
        why = f"it ended by signal {-code}" if code < 0 else f"it ended with exit code {code}"
        if code == -signal.SIGXCPU:
            why = f"it takes more than {self.limits.seconds} s of processor time"
        if not self.finished:
            why = f"it takes more than {self.limits.wall:.0f} s"
        return Result(self.name, layout=layout_of(self.name), note=why)


def _work(name: str, limits: Limits, writes: int) -> None:
    """Examine a network in this process, say what came of it, and end."""
    import resource  # not everywhere, as fork is not

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends it
        with open(os.devnull, "w") as nowhere:
            for stream in (1, 2):
                os.dup2(nowhere.fileno(), stream)
        held = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = held * os.sysconf("SC_PAGE_SIZE") + int(limits.gib * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))
        try:
            result = examine(name, layout_of(name))
        except Exception as e:  # whatever is raised is this network's result
            words = f"{type(e).__name__}: {' '.join(str(e).split())[:200]}"
            result = Result(name, layout=layout_of(name))
            if isinstance(e, MemoryError) or "allocate memory" in words:
                result.note = f"it takes more than {limits.gib:g} GiB"
            else:
                result.status, result.failures = "differs", [words.replace("; ", ", ")]
        os.write(writes, json.dumps(_flat(result)).encode())
        code = 0
    finally:
        os._exit(code)
