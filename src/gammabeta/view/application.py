"""The ASGI application: what the page asks for, read from the records.

Addresses are relative to that of the page, so that a proxy may put a prefix before all of them::

    .                                 the page, and ./static/<name>, its files
    run.json                          everything but the signals
    events?after=<cursor>             what is new, as server-sent events
    column/<field>.bin?from=<frame>   uint32 frames, probes; float32 [frames][probes]
    shapes.bin?frames=…&probes=…      uint32 frames, probes; uint8 [frames][probes][bins]
    channels.json?probe=…&step=…      the values by channel of a probe
    run.html                          the whole as one file
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from gammabeta.signal import axis
from gammabeta.signal.paths import RecordError
from gammabeta.view import page, payload, sending
from gammabeta.view.access import Gate
from gammabeta.view.runs import Runs, Shown
from gammabeta.view.sending import KEPT, SAFE, Patient, blocks, body, matches, tag_of, work
from gammabeta.view.store import Cache, column_names
from gammabeta.view.stream import Audience, Pulse, events

MOST_SHAPES = 20_000
"""Histograms of one request."""

_DECODERS = 2
_ENCODED_BYTES = 64 << 20
_LARGEST = 10**9  # numbers in a query


class BadRequest(Exception):
    """A request that cannot be answered; the text says why."""


@dataclass(frozen=True)
class Site:
    """The application, and what its server needs to know of it."""

    app: ASGIApp
    patient: Patient
    audience: Audience
    executors: tuple[Executor, ...]

    def close(self) -> None:
        """Let the threads end when they have done what they have begun."""
        for each in self.executors:
            each.shutdown(wait=False, cancel_futures=True)


def site(runs: Runs, token: str | None = None) -> Site:
    """Return the application that shows ``runs``.

    Args:
        runs: the runs.
        token: see `gammabeta.view.access`.
    """
    audience = Audience()
    views = _Views(runs, audience)
    routes = [
        Route("/", views.index),
        Route("/static/{name}", views.static),
        Route("/run.json", _answered(views.run)),
        Route("/run.html", _answered(views.save)),
        Route("/events", _answered(views.events)),
        Route("/column/{name}", _answered(views.column)),
        Route("/shapes.bin", _answered(views.shapes)),
        Route("/channels.json", _answered(views.channels)),
    ]
    app = Starlette(routes=routes)
    app.router.redirect_slashes = False  # the address of a redirection would lack the prefix
    patient = Patient(Gate(app, token))
    return Site(patient, patient, audience, views.executors)


def _answered(view: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """Answer errors in one line."""

    async def answered(request: Request) -> Response:
        try:
            response: Response = await view(request)
            return response
        except BadRequest as e:
            return JSONResponse({"error": payload.plain(str(e))}, 400, headers=SAFE)
        except RecordError as e:
            return JSONResponse({"error": payload.plain(str(e))}, 503, headers=SAFE)

    return answered


class _Views:
    """What answers each address."""

    def __init__(self, runs: Runs, audience: Audience) -> None:
        self._runs = runs
        self._audience = audience
        self._decoders = ThreadPoolExecutor(_DECODERS, "gammabeta decoder")
        self._exporter = ThreadPoolExecutor(1, "gammabeta exporter")
        self._pulse = Pulse(runs, audience)
        self.executors = (self._decoders, self._exporter, self._pulse.executor)
        self._encoded: Cache[bytes] = Cache(_ENCODED_BYTES)

    async def index(self, request: Request) -> Response:
        html, policy = page.live_page()
        return HTMLResponse(html, headers={**SAFE, "Content-Security-Policy": policy})

    async def static(self, request: Request) -> Response:
        found = page.asset(request.path_params["name"])
        if found is None:
            return Response("not found", 404, headers=SAFE, media_type="text/plain")
        return Response(found[0], headers=SAFE, media_type=found[1])

    async def _shown(self) -> Shown:
        return await work(self._decoders, self._runs.now)

    async def run(self, request: Request) -> Response:
        shown = await self._shown()
        tag = tag_of("run", shown.index.epoch, shown.size, shown.status)
        self._audience.visits += 1
        if matches(request, tag):
            return sending.unchanged(tag)

        def make() -> bytes:
            data = self._encoded.get(tag)
            if data is None:
                data = payload.encoded(payload.snapshot(shown))
                self._encoded.put(tag, data, len(data))
            return data

        data = await work(self._decoders, make)
        return body(data, "application/json", {**KEPT, "ETag": tag})

    async def save(self, request: Request) -> Response:
        shown = await self._shown()
        tag = tag_of("save", shown.index.epoch, shown.size, shown.status)

        def check() -> None:
            if self._audience.dismissed:
                raise RecordError("the server is stopping")

        def make() -> bytes:
            data = self._encoded.get(tag)
            if data is None:
                data = page.exported_page(shown, check).encode()
                self._encoded.put(tag, data, len(data))
            return data

        data = await work(self._exporter, make)
        stem = self._runs.paths[0].stem if len(self._runs.paths) == 1 else "runs"
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)
        disposition = f'attachment; filename="{name.encode("ascii", "replace").decode()}.html"'
        headers = {**KEPT, "ETag": tag, "Content-Disposition": disposition}
        return body(data, "text/html", headers)

    async def events(self, request: Request) -> Response:
        # To reconnect, a browser repeats the URL, and names the last event in this header.
        last = request.headers.get("last-event-id") or request.query_params.get("after", "")
        try:
            after = payload.read_cursor(last) if last else None
        except ValueError as e:
            raise BadRequest(f"after={last[:100]!r} is not a cursor of run.json") from e
        return StreamingResponse(
            events(self._pulse, after),
            media_type="text/event-stream",
            headers={**SAFE, "X-Accel-Buffering": "no"},  # a proxy shall pass on each at once
        )

    async def column(self, request: Request) -> Response:
        field, _, suffix = request.path_params["name"].rpartition(".")
        if suffix != "bin" or field not in column_names():
            return Response("not found", 404, headers=SAFE, media_type="text/plain")
        shown = await self._shown()
        index, store, size = shown.index, shown.store, shown.size
        first = min(_number(request, "from", 0), size.frames)
        tag = tag_of("column", index.epoch, field, first, size.frames, size.probes)
        if matches(request, tag):
            return sending.unchanged(tag)
        frames = size.frames - first
        await work(self._decoders, store.prepare, range(first, size.frames))
        return await blocks(
            request,
            self._decoders,
            struct.pack("<II", frames, size.probes),
            store.column(field, first, size.frames, size.probes),
            8 + 4 * frames * size.probes,
            {**KEPT, "ETag": tag},
        )

    async def shapes(self, request: Request) -> Response:
        shown = await self._shown()
        index, store, size = shown.index, shown.store, shown.size
        frames = _numbers(request, "frames", size.frames)
        probes = _numbers(request, "probes", size.probes)
        if len(frames) * len(probes) > MOST_SHAPES:
            raise BadRequest(
                f"{len(frames)} frames × {len(probes)} probes are more than {MOST_SHAPES} shapes; "
                "ask for fewer at a time"
            )
        tag = tag_of("shapes", index.epoch, frames, probes)
        if matches(request, tag):
            return sending.unchanged(tag)
        if probes:
            await work(self._decoders, store.prepare, frames, True)
        return await blocks(
            request,
            self._decoders,
            struct.pack("<II", len(frames), len(probes)),
            store.shapes(frames, probes) if frames and probes else iter(()),
            8 + len(frames) * len(probes) * axis.BINS,
            {**KEPT, "ETag": tag},
        )

    async def channels(self, request: Request) -> Response:
        shown = await self._shown()
        store, size = shown.store, shown.size
        probe, step = _number(request, "probe"), _number(request, "step")
        if probe >= size.probes:
            raise BadRequest(f"probe={probe} must be below {size.probes}")
        values = await work(self._decoders, store.channels, probe, step)
        data = payload.encoded({"values": payload.numbers(values)})
        return body(data, "application/json", KEPT)


def _number(request: Request, name: str, default: int | None = None) -> int:
    text = request.query_params.get(name, "" if default is None else str(default))
    number = _whole(text)
    if number is None:
        raise BadRequest(f"{name}={text[:50]!r} must be a whole number, at least 0")
    return number


def _whole(text: str) -> int | None:
    fits = text.isascii() and text.isdigit() and len(text) < 16
    return min(int(text), _LARGEST) if fits else None


def _numbers(request: Request, name: str, count: int) -> list[int]:
    """Read numbers below ``count`` and ranges of them, such as ``0,4-7``."""
    text = request.query_params.get(name, "")
    found: list[int] = []
    for part in text.split(",") if text else ():
        first, dash, last = part.partition("-")
        low, high = _whole(first), _whole(last if dash else first)
        if low is None or high is None or high < low:
            raise BadRequest(f"{name}={text[:50]!r} must be numbers and ranges, such as 0,4-7")
        if high >= count:
            raise BadRequest(f"{name}={text[:50]!r} must be below {count}")
        if len(found) + high - low >= MOST_SHAPES:
            raise BadRequest(f"{name}={text[:50]!r} are more than {MOST_SHAPES} numbers")
        found.extend(range(low, high + 1))
    return found
