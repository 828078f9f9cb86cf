"""Serve the live page of one run on the loopback address.

The server reads the run only from its record, so the run may belong to this process, belong to
another process, or be finished. It serves only that run and the files of the page, and only to
requests that name a loopback host, so that a web site cannot read the run by pointing its own name
to this address.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gammabeta.signal.paths import RecordError
from gammabeta.signal.run import Run
from gammabeta.view import page, payload

HOST = "127.0.0.1"
DEFAULT_PORT = 8501
POLL_SECONDS = 0.15
_FRAMES_A_MESSAGE = 64
_SAFE = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


@dataclass
class Audience:
    """The pages that are open, shared between the server's thread and the thread that started it.

    Attributes:
        visits: number of requests for the run so far.
        listeners: number of pages that are listening for events.
        dismissed: set this to end the event streams.
    """

    visits: int = 0
    listeners: int = 0
    dismissed: bool = False


def application(path: Path, audience: Audience | None = None) -> Starlette:
    """Return the ASGI application that shows the run at ``path``.

    Args:
        path: file of the run.
        audience: updated by the application; None to not report it.
    """
    audience = audience or Audience()

    def index(request: Request) -> Response:
        html, policy = page.live_page()
        return HTMLResponse(html, headers={**_SAFE, "Content-Security-Policy": policy})

    def static(request: Request) -> Response:
        found = page.asset(request.path_params["name"])
        if found is None:
            return Response("not found", 404, headers=_SAFE, media_type="text/plain")
        return Response(found[0], headers=_SAFE, media_type=found[1])

    def run(request: Request) -> Response:
        try:
            with Run(path) as record:
                response = JSONResponse(payload.snapshot(record), headers=_SAFE)
            audience.visits += 1
            return response
        except RecordError as e:
            return JSONResponse({"error": str(e)}, 503, headers=_SAFE)

    def save(request: Request) -> Response:
        try:
            with Run(path) as record:
                document = page.exported_page(record)
        except RecordError as e:
            return JSONResponse({"error": str(e)}, 503, headers=_SAFE)
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in path.stem)
        disposition = f'attachment; filename="{name.encode("ascii", "replace").decode()}.html"'
        return HTMLResponse(document, headers={**_SAFE, "Content-Disposition": disposition})

    async def events(request: Request) -> Response:
        # To reconnect, a browser repeats the URL, and names the last event in this header.
        last = request.headers.get("last-event-id") or request.query_params.get("after", "0:0")
        try:
            frame, scalar = (int(part) for part in last.split(":"))
            if not (0 <= frame < 2**63 and 0 <= scalar < 2**63):  # the range of SQLite's integers
                raise ValueError
        except ValueError:
            return JSONResponse(
                {"error": f"after={last!r} is not a cursor, such as 0:0"}, 400, headers=_SAFE
            )
        return StreamingResponse(
            _events(path, frame, scalar, audience),
            media_type="text/event-stream",
            headers=_SAFE,
        )

    return Starlette(
        routes=[
            Route("/", index),
            Route("/static/{name}", static),
            Route("/run.json", run),
            Route("/run.html", save),
            Route("/events", events),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


async def _events(path: Path, frame: int, scalar: int, audience: Audience) -> AsyncIterator[str]:
    """Yield what is recorded after the cursor as server-sent events, until the run has ended."""
    audience.listeners += 1
    try:
        yield "retry: 1000\n\n"
        while not audience.dismissed:
            try:
                status, news = await run_in_threadpool(_news, path, frame, scalar)
            except RecordError as e:
                yield f"event: trouble\ndata: {json.dumps(str(e))}\n\n"
                return
            cursor = news["cursor"]
            moved = (cursor["frame"], cursor["scalar"]) != (frame, scalar)
            if moved:
                frame, scalar = cursor["frame"], cursor["scalar"]
                yield f"id: {frame}:{scalar}\ndata: {json.dumps(news)}\n\n"
            elif status != "running":
                yield f"event: end\ndata: {json.dumps(status)}\n\n"
                return
            else:
                yield ": still here\n\n"  # a comment, so that both sides notice a dead connection
                await asyncio.sleep(POLL_SECONDS)
    finally:
        audience.listeners -= 1


def _news(path: Path, frame: int, scalar: int) -> tuple[str, payload.Json]:
    with Run(path) as run:
        status = run.status()
        return status, payload.increment(run, frame, scalar, most=_FRAMES_A_MESSAGE)


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


def listen(port: int | None) -> socket.socket:
    """Return a socket bound to the loopback address.

    Args:
        port: port number, 0 for any free port; None for `DEFAULT_PORT`, or any free port if it is
            taken.

    Raises:
        ValueError: ``port`` is out of range or taken.
        TypeError: ``port`` is not a whole number.
    """
    check_port(port)
    for candidate in (port,) if port is not None else (DEFAULT_PORT, 0):
        bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((HOST, candidate))
            bound.listen(128)
            return bound
        except OSError as e:
            bound.close()
            reason = e.strerror or str(e)
    raise ValueError(f"port={port} cannot be used: {reason}; give another, or 0 for any free one")


class Server:
    """Serve the live page in a background thread; a context manager.

    Args:
        path: file of the run.
        port: see `listen`.

    Attributes:
        url: address of the page.
    """

    def __init__(self, path: Path, port: int | None = None) -> None:
        self._socket = listen(port)
        self.url = f"http://{HOST}:{self._socket.getsockname()[1]}/"
        self._audience = Audience()
        self._hurried = False
        config = uvicorn.Config(
            application(path, self._audience),
            log_level="error",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, args=([self._socket],), name="gammabeta view", daemon=True
        )

    def start(self) -> Server:
        """Start the server, and return when the page can be opened."""
        self._thread.start()
        while not self._server.started and self._thread.is_alive():
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
        while self._thread.is_alive():
            self._thread.join(0.2)

    def stop(self) -> None:
        """Stop the server and release its port."""
        self._audience.dismissed = True
        self._server.should_exit = True
        if self._thread.is_alive():
            self._thread.join(5)
        self._socket.close()

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
