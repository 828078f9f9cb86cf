"""Serve the live page of runs, in a background thread.

The server reads runs only from their records, so a run may belong to this process, belong to
another process, or be finished. It serves only these runs and the files of the page, and only to
those whom `gammabeta.view.access` lets in.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import uvicorn

from gammabeta.view.access import LOOPBACK, new_token
from gammabeta.view.application import site
from gammabeta.view.runs import Runs

DEFAULT_PORT = 8501
_BACKLOG = 1024
_GRACE_SECONDS = 0.5
_LAST_SECONDS = 8.0


def check_port(port: int | None) -> None:
    """Raise an error unless ``port`` is None or a valid port.

    Raises:
        ValueError: ``port`` is out of range.
        TypeError: ``port`` is not a whole number.
    """
    if port is None:
        return
    if not isinstance(port, int):
        raise TypeError(f"port={port!r} must be a whole number between 0 and 65535")
    if not 0 <= port <= 65535:
        raise ValueError(f"port={port} must be between 0 and 65535 (0: any free one)")


def listen(port: int | None, host: str | None = None) -> socket.socket:
    """Return a socket that listens.

    Args:
        port: port number, 0 for any free port; None for `DEFAULT_PORT`, or any free port if it is
            taken.
        host: name or address of this machine; None for the loopback address.

    Raises:
        ValueError: ``port`` is out of range or taken, or ``host`` is not of this machine.
        TypeError: ``port`` is not a whole number.
    """
    check_port(port)
    family, address = _address(host or LOOPBACK)
    for candidate in (port,) if port is not None else (DEFAULT_PORT, 0):
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((address, candidate))
            bound.listen(_BACKLOG)
            return bound
        except OSError as e:
            bound.close()
            reason = e.strerror or str(e)
            if host is not None and _is_foreign(family, address):
                raise ValueError(
                    f"host={host!r} cannot be used: {reason}; give an address of this machine, "
                    "or 0.0.0.0 for all"
                ) from e
    raise ValueError(f"port={port} cannot be used: {reason}; give another, or 0 for any free one")


def _address(host: str) -> tuple[int, str]:
    try:
        family, *_, found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as e:
        reason = getattr(e, "strerror", None) or "it is no name of a machine"
        raise ValueError(
            f"host={host!r} cannot be used: {reason}; give an address of this machine, or 0.0.0.0 "
            "for all"
        ) from e
    return family, str(found[0])


def _is_foreign(family: int, address: str) -> bool:
    """Return whether not even a free port of ``address`` can be used."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return True
    return False


class Server:
    """Serve the live page in a background thread; a context manager.

    Args:
        path: file of the run, files of several, or what is known of them already.
        port: see `listen`.
        host: see `listen`. If it is given, a token is required, see `gammabeta.view.access`.

    Attributes:
        url: address of the page, with the token if one is required.
        local_url: the same by the name of this machine's loopback, if it listens on all addresses;
            else None.
        token: the token; None if none is required.
    """

    def __init__(
        self,
        path: Path | Sequence[Path] | Runs,
        port: int | None = None,
        host: str | None = None,
    ) -> None:
        self._socket = listen(port, host)
        self.token = None if host is None else new_token()
        runs = path if isinstance(path, Runs) else Runs([path] if isinstance(path, Path) else path)
        self._site = site(runs, self.token)
        address, number = self._socket.getsockname()[:2]
        everywhere = address in ("0.0.0.0", "::")
        self.url = self._url(socket.gethostname() if everywhere else address, number)
        self.local_url = self._url(LOOPBACK, number) if everywhere else None
        self._audience = self._site.audience
        self._hurried = False
        self._loop: asyncio.AbstractEventLoop | None = None
        config = uvicorn.Config(
            self._site.app,
            log_level="error",
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        # Not Thread.join: if Ctrl-C interrupts it, the thread passes for ended while it still runs
        # (CPython issue 90882), and the process would end in the midst of it.
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gammabeta view", daemon=True)

    def _url(self, host: str, port: int) -> str:
        name = f"[{host}]" if ":" in host else host
        return f"http://{name}:{port}/" + (f"?token={self.token}" if self.token else "")

    def _run(self) -> None:
        async def serve() -> None:
            self._loop = asyncio.get_running_loop()
            await self._server.serve([self._socket])

        try:
            asyncio.run(serve())
        finally:
            self._ended.set()

    def start(self) -> Server:
        """Start the server, and return when the page can be opened."""
        self._thread.start()
        while not self._server.started and not self._ended.is_set():
            time.sleep(0.005)
        return self

    def drain(self, seconds: float, first: float = 0.0) -> None:
        """Wait until all listening pages have received the end of the run.

        Args:
            seconds: maximum time to wait for the pages, in seconds.
            first: maximum time to wait for the first page to connect, in seconds.
        """
        begin = time.monotonic()
        while not self._audience.visits and time.monotonic() < begin + first and not self._hurried:
            time.sleep(0.02)
        deadline = time.monotonic() + seconds
        while self._audience.listeners and time.monotonic() < deadline and not self._hurried:
            time.sleep(0.02)

    def hurry(self) -> None:
        """Let :meth:`drain` return immediately, the current call or the next one."""
        self._hurried = True

    def wait(self) -> None:
        """Block until the server stops or the process is interrupted."""
        while not self._ended.wait(0.2):
            pass

    def stop(self) -> None:
        """Stop the server and release its port.

        Requests in progress have half a second to end; then their connections are closed.
        """
        self._audience.dismissed = True
        self._site.patient.closing = True
        self._server.should_exit = True
        if self._thread.is_alive() and not self._ended.wait(_GRACE_SECONDS):
            if self._loop is not None:
                with contextlib.suppress(RuntimeError):  # it has ended just now
                    self._loop.call_soon_threadsafe(self._hang_up)
            self._ended.wait(_LAST_SECONDS)
        self._site.close()
        self._socket.close()

    def _hang_up(self) -> None:
        """Close all connections: Uvicorn would wait for those who do not read."""
        for connection in list(self._server.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
