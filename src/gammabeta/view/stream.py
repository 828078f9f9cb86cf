"""What is new, to every page that listens, as server-sent events.

One task looks at the records for all pages together, as long as there are any.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gammabeta.signal.paths import RecordError
from gammabeta.view import payload
from gammabeta.view.index import Index, Size
from gammabeta.view.runs import Runs, Shown
from gammabeta.view.sending import pieces_of, work
from gammabeta.view.store import Cache

POLL_SECONDS = 0.15
_ALIVE_SECONDS = 2.0
_MOST_FRAMES = 2048
_MOST_SCALARS = 16_384
_KEPT_BYTES = 8 << 20


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


class Pulse:
    """Look at the records several times a second while somebody listens.

    Args:
        runs: the runs.
        audience: counts who listens.
    """

    def __init__(self, runs: Runs, audience: Audience) -> None:
        self.audience = audience
        self._runs = runs
        self.executor = ThreadPoolExecutor(1, "gammabeta reader")
        self._beat: asyncio.Future[Shown] | None = None
        self._task: asyncio.Task[None] | None = None
        self._made: Cache[bytes] = Cache(_KEPT_BYTES)

    async def look(self) -> Shown:
        """Return what is known now.

        Raises:
            RecordError: a record cannot be read.
        """
        return await work(self.executor, self._runs.now)

    async def next(self) -> Shown:
        """Wait a moment, and return what is known then; everybody who waits gets the same.

        Raises:
            RecordError: a record cannot be read.
        """
        if self._beat is None:
            self._beat = asyncio.get_running_loop().create_future()
            self._task = asyncio.create_task(self._once(self._beat))
        return await asyncio.shield(self._beat)

    async def _once(self, beat: asyncio.Future[Shown]) -> None:
        await asyncio.sleep(POLL_SECONDS)
        try:
            shown = await self.look()
        except RecordError as e:
            self._beat = None
            beat.set_exception(e)
            beat.exception()  # it is no fault if nobody waits any more
        except BaseException:
            beat.cancel()
            raise
        else:
            self._beat = None
            beat.set_result(shown)

    async def message(self, index: Index, after: Size, size: Size) -> bytes:
        """Return the message with what is between two sizes, made once for all."""
        key = payload.cursor(index, after), payload.cursor(index, size)
        made = self._made.get(key)
        if made is None:
            data = await work(self.executor, lambda: payload.increment(index, after, size))
            made = b"id: %b\ndata: %b\n\n" % (data["cursor"].encode(), payload.encoded(data))
            self._made.put(key, made, len(made))
        return made


async def events(pulse: Pulse, after: tuple[str, Size] | None) -> AsyncIterator[bytes]:
    """Yield what is recorded after a cursor, until the runs have ended.

    Args:
        pulse: looks at the records.
        after: the cursor's epoch and size; None for everything.
    """
    audience = pulse.audience
    audience.listeners += 1
    try:
        yield b"retry: 1000\n\n"
        shown = await pulse.look()
        epoch, sent = after if after is not None else (shown.index.epoch, Size())
        said = time.monotonic()
        while not audience.dismissed:
            index, size = shown.index, shown.size
            if index.epoch != epoch or _beyond(sent, size):
                yield _event("trouble", "the run was begun anew or continued; reload the page")
                return
            if sent != size:
                until = _step(sent, size)
                for piece in pieces_of(await pulse.message(index, sent, until)):
                    yield piece
                sent, said = until, time.monotonic()
                if sent != size:
                    continue
            elif shown.status != "running":
                yield _event("end", shown.status)
                return
            elif time.monotonic() > said + _ALIVE_SECONDS:
                yield b": still here\n\n"  # a comment, so that both sides notice a dead connection
                said = time.monotonic()
            shown = await pulse.next()
    except RecordError as e:
        yield _event("trouble", payload.plain(str(e)))
    finally:
        audience.listeners -= 1


def _event(kind: str, data: str) -> bytes:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


def _beyond(sent: Size, size: Size) -> bool:
    return any(a > b for a, b in zip(_counts(sent), _counts(size), strict=True))


def _counts(size: Size) -> tuple[int, ...]:
    return size.frames, size.scalars, size.marks, size.probes, size.findings


def _step(sent: Size, size: Size) -> Size:
    """Return how much follows ``sent`` in one message: all probes, but only some frames."""
    return Size(
        min(size.frames, sent.frames + _MOST_FRAMES),
        min(size.scalars, sent.scalars + _MOST_SCALARS),
        size.marks,
        size.probes,
        size.findings,
    )
