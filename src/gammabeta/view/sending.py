"""Send answers of any size in little memory, and give up those who do not read them.

A large answer is made and sent piece by piece: the next piece is made when the one before has left.
A client that takes nothing for `PATIENCE` seconds loses its connection.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gammabeta.signal.paths import RecordError

PATIENCE = 20.0
"""Seconds in which a client has to take a piece."""
PIECE = 1 << 16
"""Bytes that are handed over at once."""

SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
KEPT = {**SAFE, "Cache-Control": "private, no-cache"}
"""Headers of an answer that a browser may keep, but has to ask about."""

_ABORT = "gammabeta.abort"

Result = TypeVar("Result")


class Patient:
    """ASGI middleware, to be the outermost: closes connections of clients that do not read.

    Args:
        app: the application.

    Attributes:
        closing: whether requests may be broken off in silence.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.closing = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        def abort() -> None:
            # The cycle of Uvicorn, whose method `send` is. Another server gets no such help.
            transport = getattr(getattr(send, "__self__", None), "transport", None)
            if transport is not None:
                transport.abort()

        async def patient(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), PATIENCE)
            except asyncio.TimeoutError:
                await _hang_up(abort)

        scope[_ABORT] = abort
        try:
            await self.app(scope, receive, patient)
        except asyncio.CancelledError:
            if not self.closing:
                raise


async def _hang_up(abort: Callable[[], None]) -> None:
    """Close the connection, and wait until the server has noticed, so that it does not complain."""
    abort()
    await asyncio.sleep(0.05)


async def work(executor: Executor, function: Callable[..., Result], *args: Any) -> Result:
    """Call ``function`` in one of the few threads that decode records."""
    return await asyncio.get_running_loop().run_in_executor(executor, function, *args)


def matches(request: Request, tag: str) -> bool:
    """Return whether the browser has the answer with this ETag."""
    known = request.headers.get("if-none-match", "")
    return tag in [each.strip().removeprefix("W/") for each in known.split(",")]


def tag_of(*parts: object) -> str:
    """Return the ETag of an answer that ``parts`` determine."""
    text = "|".join(map(str, parts)).encode(errors="replace")
    return f'"{hashlib.sha256(text).hexdigest()[:24]}"'


def unchanged(tag: str) -> Response:
    """Return the answer to a browser that has it already."""
    return Response(status_code=304, headers={**KEPT, "ETag": tag})


def body(data: bytes, media_type: str, headers: dict[str, str]) -> Response:
    """Return an answer that is known as a whole; several of them may share ``data``."""
    if len(data) <= PIECE:
        return Response(data, headers=headers, media_type=media_type)

    async def pieces() -> AsyncIterator[bytes]:
        for piece in pieces_of(data):
            yield piece

    headers = {**headers, "Content-Length": str(len(data))}
    return StreamingResponse(pieces(), headers=headers, media_type=media_type)


async def blocks(
    request: Request,
    executor: Executor,
    head: bytes,
    rest: Iterator[bytes],
    length: int,
    headers: dict[str, str],
) -> Response:
    """Return an answer that is made block by block.

    Args:
        request: what is answered.
        executor: its threads make the blocks.
        head: the first bytes.
        rest: the blocks.
        length: number of bytes of all together.
        headers: headers of the answer.

    Raises:
        RecordError: the first block cannot be made. If a later one cannot be, the connection is
            closed, so that the client does not take the part for the whole.
    """
    first = await work(executor, next, rest, b"")

    async def pieces() -> AsyncIterator[bytes]:
        yield head
        block = first
        while block:
            for piece in pieces_of(block):
                yield piece
            try:
                block = await work(executor, next, rest, b"")
            except RecordError:
                await _hang_up(request.scope.get(_ABORT, lambda: None))
                return

    headers = {**headers, "Content-Length": str(length)}
    return StreamingResponse(pieces(), headers=headers, media_type="application/octet-stream")


def pieces_of(data: bytes) -> Iterator[bytes]:
    """Yield ``data`` in pieces, so that the next is only sent when the one before has left."""
    view = memoryview(data)
    for start in range(0, len(data), PIECE):
        yield bytes(view[start : start + PIECE])
