"""The container that an exported page embeds: a run in a few megabytes, and what it holds.

The page's ``<script id="run" type="application/octet-stream">`` is the base64 of this container.
All numbers are little-endian; "deflated" is zlib's format, ``DecompressionStream("deflate")``::

    bytes 0–7    the text "gammabt3"
    bytes 8–11   uint32 n, the length of the deflated index
    n bytes      the index: deflated JSON in UTF-8
    the rest     blocks; an ``at`` in the index is [offset from the end of the index, length],
                 and each block is deflated by itself

The index has the keys of ``run.json`` (see `gammabeta.view.payload`) and ``packed``::

    packed: {
      measured: {at},                            uint8 [frames][ceil(probes / 8)]
      columns:  {<field>: {bits, size, at}, …},  integers [signals], see below
      shapes:   {group, levels, chunks: [{from, to, at}, …]},
      channels: {at} or null
    }

**Signals.** Bit ``p % 8`` (1 is the lowest) of byte ``p >> 3`` in row ``i`` of ``measured`` says
whether probe p (its position in ``probes``, which is its id) was measured in frame i. The *signals*
are the pairs that were, in the order of frames, then of probes. Everything else holds signals only.
Let "the one before" be the previous signal of the same probe.

**Columns.** A value is a float32 whose significand is rounded to ``bits`` bits. Its code is the 31
low bits of its pattern shifted right by ``23 − bits``, negated if the value is negative; a NaN is
any code above that of infinity. What is stored is code minus the code of the one before (0 for a
probe's first signal), in 32-bit two's complement, zigzag (0, −1, 1, −2 … → 0, 1, 2, 3 …), as
``size`` planes of bytes, the lowest byte of all signals first. To read::

    z = plane0[s] | plane1[s] << 8 | …          // plane k is bytes [k·signals, (k+1)·signals)
    code = (last[probe[s]] + ((z >>> 1) ^ -(z & 1))) | 0;    last[probe[s]] = code
    pattern = (code < 0 ? 0x80000000 : 0) | Math.abs(code) << (23 - bits)    // of a float32

``rms`` is not stored: it is √(mean² + std²). A field without a column was not measured anywhere.

**Shapes.** A histogram without its exact zeros (they are the field ``zeros``), in ``axis.bins /
group`` groups of neighbouring bins; a level is ``round(levels · √(group / largest group))``, at
least 1 if the group is not empty. The height of each bin of a group, as in ``shapes.bin``, is
therefore ``round(255 · (level / levels)²)``, at least 1 if the level is. A chunk holds the signals
of the frames ``from`` ≤ i < ``to``: for each probe that has any there, in order, for each group,
one byte for each of its n signals. The byte is the level minus a prediction, modulo 256. With
``left`` the level of the group before (0 for the first group) and ``before`` the level in the
probe's signal before, the prediction is ``left`` for the probe's first signal in this chunk, else
``(left + before) >> 1``.

    for each probe with n > 0 signals in the chunk:          // in order of probes
      for (g = 0; g < groups; g++) for (k = 0; k < n; k++)
        level[g][k] = (byte + (k ? (left(g, k) + level[g][k-1]) >> 1 : left(g, k))) & 255
        // left(g, k) = g ? level[g-1][k] : 0

**Channels.** JSON ``[{probe, step, values}]``: the values of γ, β, … at a few steps, ascending, so
that the newest at or before a step can be shown.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import axis
from gammabeta.signal.stages import PER_CHANNEL
from gammabeta.view import payload
from gammabeta.view.index import Index, Size
from gammabeta.view.reading import number_fields
from gammabeta.view.runs import Shown
from gammabeta.view.shapes import levels
from gammabeta.view.store import Store

MAGIC = b"gammabt3"

_LIMIT = 4_000_000
"""Bytes that a container should not exceed. In base64 and with the page they are 5.7 MB."""
_BITS = 10  # three digits
_OTHER_BITS = {"count": 23, "sampled": 23, "stderr": 5}
_FINENESS = ((1, 255), (1, 64), (1, 32), (2, 48), (2, 32), (2, 24), (2, 16), (4, 24), (4, 16))
"""Bins in a group, and levels: the first with which the container stays below its limit is used.
The page smooths shapes by 2.4 bins, so that a group of two cannot be seen."""
_CHUNK_SIGNALS = 8192
_CHANNEL_VALUES = 120_000
_MOST_TIMES = 12  # at which channels are kept

Check = Callable[[], None]


@dataclass(frozen=True)
class Signals:
    """All signals of an index in the order of frames, then of probes.

    Attributes:
        frame: (S,) number of the frame of each.
        probe: (S,) number of its probe.
        values: field → (S,) float32.
    """

    frame: NDArray[Any]
    probe: NDArray[Any]
    values: dict[str, NDArray[Any]]


def pack(shown: Shown, check: Check = lambda: None) -> bytes:
    """Return the container of runs, as the docstring of this module says.

    Args:
        shown: the runs.
        check: called now and then; it may raise an error to end the work.

    Raises:
        RecordError: a frame cannot be read.
    """
    index, store, size = shown.index, shown.store, shown.size
    data = payload.snapshot(shown)
    if data["status"] == "running":
        data["status"] = "snapshot"  # the document cannot receive more
    for run in data["runs"]:
        run["status"] = "snapshot" if run["status"] == "running" else run["status"]
    signals = _signals(store, size, check)
    blocks = _Blocks()
    packed: dict[str, Any] = {"measured": {"at": blocks.add(_measured(signals, size))}}
    packed["columns"] = {}
    for name, values in signals.values.items():
        check()
        if not np.isnan(values).all():
            packed["columns"][name] = _column(name, values, signals.probe, blocks)
    packed["channels"] = _channels(index, size, blocks, check)
    packed["shapes"] = _shapes(store, signals, size, blocks, check)
    head = zlib.compress(payload.encoded({**data, "packed": packed}), 9)
    return b"".join([MAGIC, struct.pack("<I", len(head)), head, *blocks.parts])


class _Blocks:
    """The blocks of a container, one after the other."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.length = 0

    def add(self, data: bytes) -> list[int]:
        """Deflate ``data``, and return where it is."""
        return self.put(_deflated(data))

    def put(self, part: bytes) -> list[int]:
        """Append what is deflated, and return where it is."""
        at = [self.length, len(part)]
        self.parts.append(part)
        self.length += len(part)
        return at


def _deflated(data: bytes) -> bytes:
    # Residuals are many small numbers without repetitions: filtered finds shorter codes for them.
    deflate = zlib.compressobj(6, zlib.DEFLATED, 15, 9, zlib.Z_FILTERED)
    return deflate.compress(data) + deflate.flush()


def _signals(store: Store, size: Size, check: Check) -> Signals:
    frames, probes, values = [], [], []
    for frame, places, decoded in store.numbers(range(size.frames)):
        check()
        known = (places >= 0) & (places < size.probes)
        frames.append(np.full(int(known.sum()), frame))
        probes.append(places[known])
        values.append(decoded.values[:, known])
    names = number_fields()
    none = np.zeros((len(names), 0), dtype=np.float32)
    rows = np.concatenate(values, axis=1) if values else none
    return Signals(
        np.concatenate(frames) if frames else np.zeros(0, dtype=np.int64),
        np.concatenate(probes) if probes else np.zeros(0, dtype=np.int64),
        dict(zip(names, rows, strict=True)),
    )


def _measured(signals: Signals, size: Size) -> bytes:
    measured = np.zeros((size.frames, size.probes), dtype=bool)
    measured[signals.frame, signals.probe] = True
    return np.packbits(measured, axis=1, bitorder="little").tobytes()


def _column(
    name: str, values: NDArray[Any], probe: NDArray[Any], blocks: _Blocks
) -> dict[str, Any]:
    bits = _OTHER_BITS.get(name, _BITS)
    change = _changes(_codes(values, bits), probe)
    zigzag = ((change << 1) ^ (change >> 63)).astype(np.uint64)
    size = max(1, (int(zigzag.max(initial=0)).bit_length() + 7) // 8)
    planes = [((zigzag >> np.uint64(8 * k)) & np.uint64(255)).astype(np.uint8) for k in range(size)]
    return {"bits": bits, "size": size, "at": blocks.add(b"".join(p.tobytes() for p in planes))}


def _codes(values: NDArray[Any], bits: int) -> NDArray[np.int64]:
    pattern = np.ascontiguousarray(values, dtype="<f4").view("<u4").astype(np.int64)
    magnitude = pattern & 0x7FFFFFFF
    shift = 23 - bits
    infinity = 0x7F800000 >> shift
    rounded = np.minimum((magnitude + ((1 << shift) >> 1)) >> shift, infinity - 1)
    rounded[magnitude == 0x7F800000] = infinity
    codes = np.where(pattern >> 31 == 1, -rounded, rounded)
    codes[magnitude > 0x7F800000] = 0x7FC00000 >> shift
    return codes


def _changes(codes: NDArray[Any], probe: NDArray[Any]) -> NDArray[Any]:
    """Return each code minus that of the signal before of the same probe."""
    order = np.argsort(probe, kind="stable")
    sorted_codes, sorted_probe = codes[order], probe[order]
    before = np.zeros_like(codes)
    before[1:] = np.where(sorted_probe[1:] == sorted_probe[:-1], sorted_codes[:-1], 0)
    changes = np.empty_like(codes)
    changes[order] = sorted_codes - before
    return changes


def _shapes(
    store: Store, signals: Signals, size: Size, blocks: _Blocks, check: Check
) -> dict[str, Any]:
    spans = list(_spans(signals, size))
    budget = (_LIMIT - blocks.length) / max(len(signals.frame), 1)
    group, most = _fineness(store, spans, budget, size, check)
    chunks = []
    for first, last in spans:
        data = _chunk(*_counts(store, first, last, size, check), group, most)
        chunks.append({"from": first, "to": last, "at": blocks.add(data)})
    return {"group": group, "levels": most, "chunks": chunks}


def _spans(signals: Signals, size: Size) -> Iterator[tuple[int, int]]:
    """Yield the frames of each chunk: as many as have some thousand signals."""
    each = len(signals.frame) / max(size.frames, 1)
    frames = max(4, min(128, int(_CHUNK_SIGNALS / max(each, 1))))
    for first in range(0, size.frames, frames):
        yield first, min(first + frames, size.frames)


def _fineness(
    store: Store, spans: Sequence[tuple[int, int]], budget: float, size: Size, check: Check
) -> tuple[int, int]:
    """Return the finest setting with which a chunk in the middle takes ``budget`` a signal."""
    if not spans:
        return _FINENESS[0]
    first, last = spans[len(spans) // 2]
    probe, counts = _counts(store, first, last, size, check)
    for group, most in _FINENESS[:-1]:
        check()
        if len(_deflated(_chunk(probe, counts, group, most))) <= budget * max(len(probe), 1):
            return group, most
    return _FINENESS[-1]


def _counts(
    store: Store, first: int, last: int, size: Size, check: Check
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the probes and the histograms of a chunk, ordered by probe, then by frame."""
    rows = []
    for frame, places, counts in store.histograms(range(first, last)):
        check()
        known = (places >= 0) & (places < size.probes)
        rows.append((frame, places[known], counts[known]))
    rows.sort(key=lambda row: row[0])
    if not rows:
        return np.zeros(0, dtype=np.int64), np.zeros((0, axis.BINS), dtype=np.int64)
    probe = np.concatenate([row[1] for row in rows])
    order = np.argsort(probe, kind="stable")
    return probe[order], np.concatenate([row[2] for row in rows])[order]


def _chunk(probe: NDArray[Any], counts: NDArray[Any], group: int, most: int) -> bytes:
    level = levels(counts, group, most)
    left = np.zeros_like(level)
    left[:, 1:] = level[:, :-1]
    before = np.zeros_like(level)
    before[1:] = level[:-1]
    first = np.ones(len(probe), dtype=bool)
    first[1:] = probe[1:] != probe[:-1]
    before[first] = left[first]
    predicted = ((left.astype(np.uint16) + before) >> 1).astype(np.uint8)
    residual = level - predicted  # modulo 256
    starts = [*np.flatnonzero(first).tolist(), len(probe)]
    return b"".join(residual[start:end].T.tobytes() for start, end in itertools.pairwise(starts))


def _channels(index: Index, size: Size, blocks: _Blocks, check: Check) -> dict[str, Any] | None:
    """Pack γ, β, … at steps evenly spaced over the frames, as many as there is room for."""
    probes = [p for p in index.probes[: size.probes] if p.stage in PER_CHANNEL]
    if not probes:
        return None
    times = max(1, min(_MOST_TIMES, _CHANNEL_VALUES // (256 * len(probes))))
    steps_of: dict[int, list[int]] = {arm.id: [] for arm in index.arms}
    for arm, step in zip(index.arm, index.step, strict=False):
        steps_of[arm].append(step)
    found = []
    for run, reading in enumerate(index.readings):
        wanted = []
        for probe in probes:
            if index.arms[probe.arm].run == run:
                steps = steps_of[probe.arm]
                last = len(steps) - 1
                at = {steps[round(last * (k + 1) / times)] for k in range(times)} if steps else ()
                wanted += [(probe.id, step) for step in sorted(at)]
        own = ((index.probe_in_file(probe)[1], step) for probe, step in wanted)
        for (probe_id, step), values in zip(wanted, reading.channels(own), strict=True):
            check()
            if values is not None:
                short = [None if not np.isfinite(v) else float(f"{v:.3g}") for v in values.tolist()]
                found.append({"probe": probe_id, "step": step, "values": short})
    return {"at": blocks.add(payload.encoded(found))}
