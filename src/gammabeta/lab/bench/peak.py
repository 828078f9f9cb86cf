"""The most memory a call has in use at once."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """Return the most bytes that ``call`` held at once on the CPU, beyond what was there before.

    Every block that torch's CPU allocator gives and takes back is reported to torch's profiler, in
    order; the peak is the largest running sum. So it counts what autograd keeps, what kernels
    allocate through torch, and what is in between. It does not count what libraries take past
    torch's allocator, nor what worker threads take for themselves.

    Args:
        call: run twice: what only the first call allocates, and keeps, is not counted.

    Example:
        >>> import torch
        >>> peak_bytes(lambda: torch.empty(1000).relu())
        8000
    """
    call()
    with _silent():
        recording = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        recording.start()
    try:
        call()
    finally:
        with _silent():
            recording.stop()
    held = most = 0
    for change in _changes(recording):
        held += change
        most = max(most, held)
    return most


def _changes(recording: profile) -> list[int]:
    """The sizes of all blocks as they came (positive) and went, in order of time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        with _silent():
            recording.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    blocks = [event for event in events if event.get("name") == "[memory]"]
    # Two events may have the same time stamp; their index keeps them in order.
    blocks.sort(key=lambda event: (event["ts"], event["args"]["Ev Idx"]))
    return [event["args"]["Bytes"] for event in blocks if event["args"]["Device Type"] == 0]


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the profiler's library, which writes to file descriptor 2 itself, from talking."""
    try:
        kept = os.dup(2)
    except OSError:  # there is none to keep silent
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
