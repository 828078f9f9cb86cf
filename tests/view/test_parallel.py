"""Many requests at once, streams that nobody reads, Ctrl-C in the midst of it: a real process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gammabeta.signal import Record
from gammabeta.view import Server, sending
from tests.cli.command import start
from tests.signal.recorded import fill
from tests.view import big_record

MEGABYTE = 1 << 20
LONG = "shapes.bin?frames=0-49&probes=0-299"
"""3.8 MB: more than the buffers between a server and a client that does not read."""


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 rows × 500 frames: a column has 600 kB."""
    folder = tmp_path_factory.mktemp("long")
    return big_record.record(folder / "run", 300, 500, stages=("z",), residual=False)


@contextmanager
def serving(path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Yield the process of ``gammabeta view``, and its port."""
    with start("view", path, "--port", 0, folder=path.parent) as command:
        assert command.stdout is not None
        command.stdout.readline()
        found = re.search(r":(\d+)/", command.stdout.readline())
        assert found is not None
        yield command, int(found[1])


async def ask(port: int, path: str) -> tuple[int, int]:
    """Return the status and the length of an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    writer.write(request.encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    while data := await reader.read(MEGABYTE):
        length += len(data)
    writer.close()
    return int(head.split()[1]), length


def resident(process: subprocess.Popen[str]) -> float:
    """Return the most memory that a process ever had, in megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def interrupted(process: subprocess.Popen[str], within: float) -> None:
    """Press Ctrl-C; the process has to end in time, with 0 and in silence."""
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "stopped; the record is unchanged\n", "")
    assert time.monotonic() - began < within


def test_500_requests_at_once(long_run: Path) -> None:
    async def all_of(port: int) -> list[tuple[int, int]]:
        paths = ["run.json", "column/mean.bin", "column/std.bin?from=100", "column/rms.bin"]
        paths.append(LONG)
        return await asyncio.gather(*(ask(port, paths[i % 5]) for i in range(500)))

    with serving(long_run) as (process, port):
        asyncio.run(ask(port, "run.json"))
        before = resident(process)
        began = time.monotonic()
        answers = asyncio.run(all_of(port))
        took = time.monotonic() - began
        assert [status for status, _ in answers] == [200] * 500
        for i, length in {1: 600_008, 2: 480_008, 3: 600_008, 4: 15_000 * 256 + 8}.items():
            assert {n for _, n in answers[i::5]} == {length}
        # They are 550 MB together. Caches take up to some 70 MB here, buffers 128 kB a request.
        assert resident(process) - before < 250
        assert took < 60  # some 5 s on two free cores
        interrupted(process, within=5)


def silent(port: int, path: str) -> socket.socket:
    """Ask for something, and never read the answer."""
    asking = socket.socket()
    asking.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking.connect(("127.0.0.1", port))
    asking.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return asking


@contextmanager
def silence(port: int, count: int, *paths: str) -> Iterator[None]:
    """Keep ``count`` clients that do not read."""
    asking = [silent(port, paths[i % len(paths)]) for i in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for each in asking:
            each.close()


def test_those_who_do_not_read_hold_up_nobody(long_run: Path) -> None:
    with serving(long_run) as (process, port):
        asyncio.run(ask(port, "run.json"))
        before = resident(process)
        paths = "column/mean.bin", "events", LONG, "run.html"
        with silence(port, 200, *paths):
            began = time.monotonic()
            assert asyncio.run(ask(port, "run.json"))[0] == 200
            assert asyncio.run(ask(port, "column/p50.bin")) == (200, 600_008)
            assert time.monotonic() - began < 10
            assert resident(process) - before < 300
            interrupted(process, within=5)


@pytest.mark.parametrize(
    ("path", "reading"),
    [
        ("run.html", True),
        ("column/mean.bin", True),
        ("events", False),
        ("run.html", False),
        (LONG, False),
    ],
)
def test_interrupted_with_requests_in_flight(long_run: Path, path: str, reading: bool) -> None:
    async def read(port: int, process: subprocess.Popen[str]) -> None:
        asked = [asyncio.create_task(ask(port, path)) for _ in range(20)]
        await asyncio.sleep(0.2)
        await asyncio.to_thread(interrupted, process, 6)
        await asyncio.gather(*asked, return_exceptions=True)

    with serving(long_run) as (process, port):
        if reading:
            asyncio.run(read(port, process))
        else:
            with silence(port, 20, path):
                interrupted(process, within=6)


def test_a_client_that_reads_nothing_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch, long_run: Path
) -> None:
    monkeypatch.setattr(sending, "PATIENCE", 0.5)
    with Server(long_run, 0) as running:
        port = int(running.url.split(":")[2].strip("/"))
        asking = silent(port, LONG)
        time.sleep(3)
        length = 0
        with contextlib.suppress(ConnectionResetError):
            while data := asking.recv(MEGABYTE):
                length += len(data)
        asking.close()
        assert 0 < length < 15_000 * 256
        assert httpx.get(f"{running.url}run.json").status_code == 200


def test_500_listeners(tmp_path: Path) -> None:
    """One looks at the record for all; each of them gets everything."""

    async def listen(port: int, cursor: str) -> int:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"GET /events?after={cursor} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        writer.write(request.encode())
        told = 0
        while line := await reader.readline():
            told += line.startswith(b"data: {")
            if line.startswith(b"event: end"):
                break
        writer.close()
        return told

    async def audience(record: Record, port: int, cursor: str) -> list[int]:
        listening = [asyncio.create_task(listen(port, cursor)) for _ in range(500)]
        for step in range(10, 15):
            await asyncio.sleep(0.4)
            record.write(0, step, {"loss": 1.0})
            record.flush()
        record.close()
        return await asyncio.gather(*listening)

    record = Record(tmp_path / "run")
    fill(record, 2)
    record.flush()
    with Server(record.path, 0) as running:
        cursor = httpx.get(f"{running.url}run.json").json()["cursor"]
        port = int(running.url.split(":")[2].strip("/"))
        told = asyncio.run(audience(record, port, cursor))
    assert len(told) == 500
    assert min(told) >= 3  # five points; two of them may have come together
    assert max(told) <= 6
