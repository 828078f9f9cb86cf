"""What a page hears of a run: the stream of server-sent events, read as the standard says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx


@dataclass
class Event:
    """One server-sent event."""

    kind: str
    id: str
    data: Any


def events(response: httpx.Response) -> Iterator[Event]:
    """Read a stream as the standard says: fields by line, an event at each empty line."""
    fields: dict[str, str] = {}
    for line in response.iter_lines():
        if not line:
            if "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields.get("event", "message"), fields.get("id", ""), data)
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def listen(url: str, after: str = "", last: str | None = None) -> list[Event]:
    """Every event until the stream ends."""
    headers = {} if last is None else {"Last-Event-ID": last}
    with httpx.stream("GET", f"{url}events?after={after}", headers=headers, timeout=30) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        return list(events(response))


def rows(*messages: dict[str, Any]) -> dict[str, list[Any]]:
    """All rows of some messages."""
    return {
        "frames": [f for m in messages for f in zip(*m["frames"].values(), strict=True)],
        "scalars": sorted(
            (s["arm"], s["name"], step, value)
            for m in messages
            for s in m["scalars"]
            for step, value in zip(s["steps"], s["values"], strict=True)
        ),
        "marks": [mark for m in messages for mark in m["marks"]],
        "probes": [probe for m in messages for probe in m["probes"]],
    }


def joined(heard: list[Event]) -> dict[str, list[Any]]:
    """All rows of a stream's messages."""
    return rows(*(event.data for event in heard if event.kind == "message"))
