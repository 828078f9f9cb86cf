"""The signals of an index in the form in which a page asks for them, decoded once.

Frames never change once they are recorded, so what was decoded is kept, up to a number of bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gammabeta.signal import axis
from gammabeta.view.index import Index
from gammabeta.view.reading import Decoded, number_fields
from gammabeta.view.shapes import heights

RMS = "rms"

_NUMBER_BYTES = 256 << 20
_SHAPE_BYTES = 128 << 20
_BATCH = 64  # frames that are decoded between two looks at whether to go on
_BLOCK = 1 << 18  # bytes that are made at once
_BLOCK_BYTES = 64 << 20

Value = TypeVar("Value")


class Cache(Generic[Value]):
    """What was used last, up to a number of bytes.

    Args:
        limit: the number.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, tuple[int, Value]] = OrderedDict()

    def get(self, key: Hashable) -> Value | None:
        """Return what is kept under ``key``, if it is."""
        with self._lock:
            found = self._items.get(key)
            if found is None:
                return None
            self._items.move_to_end(key)
            return found[1]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep ``value``, which takes ``size`` bytes, and drop what was not used for longest."""
        with self._lock:
            self._held += size - self._items.pop(key, (0, value))[0]
            self._items[key] = (size, value)
            while self._held > self._limit and len(self._items) > 1:
                self._held -= self._items.popitem(last=False)[1][0]

    @property
    def held(self) -> int:
        """Bytes that are kept."""
        return self._held


class Store:
    """The signals of ``index``.

    Every method may be called from several threads.

    Args:
        index: the runs.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self._numbers: Cache[tuple[NDArray[Any], Decoded]] = Cache(_NUMBER_BYTES)
        self._blocks: Cache[bytes] = Cache(_BLOCK_BYTES)
        self._decoding = threading.Lock()
        self._shapes: Cache[tuple[NDArray[Any], NDArray[np.uint8]]] = Cache(_SHAPE_BYTES)

    def prepare(self, frames: Sequence[int], shapes: bool = False) -> None:
        """Decode frames as far as they are kept, so that one that is damaged is noticed early.

        Args:
            frames: numbers of frames.
            shapes: whether the histograms are decoded instead of the numbers.

        Raises:
            RecordError: a frame cannot be read.
        """
        each = len(self.index.probes) * (axis.BINS if shapes else 4 * len(number_fields()))
        if len(frames) * each > (_SHAPE_BYTES if shapes else _NUMBER_BYTES) // 2:
            return
        for batch in _batches(frames):
            with self._decoding:
                if shapes:
                    self._heights(batch)
                else:
                    self._batch(batch)

    def column(self, field: str, first: int, last: int, probes: int) -> Iterator[bytes]:
        """Yield a field of the frames from ``first`` to before ``last``, some rows at a time.

        Args:
            field: one of `column_names`.
            first: number of a frame.
            last: number of the frame after the last.
            probes: number of probes of a row.

        Returns:
            float32, little-endian, [frames][probes]; NaN where not measured.

        Raises:
            RecordError: a frame cannot be read.
        """
        rows = max(1, _BLOCK // (4 * max(probes, 1)))
        rows -= rows % _BATCH if rows > _BATCH else 0
        for start in range(first, last, rows):
            wanted = range(start, min(start + rows, last))
            key = field, wanted, probes
            made = self._blocks.get(key)
            if made is None:
                made = self._block(field, wanted, probes)
                self._blocks.put(key, made, len(made))  # pages that wait for it share it
            yield made

    def _block(self, field: str, frames: range, probes: int) -> bytes:
        block = np.full((len(frames), probes), np.nan, dtype="<f4")
        for frame, places, decoded in self.numbers(frames):
            known = (places >= 0) & (places < probes)
            block[frame - frames.start, places[known]] = _values(decoded, field)[known]
        return block.tobytes()

    def numbers(self, frames: Iterable[int]) -> Iterator[tuple[int, NDArray[Any], Decoded]]:
        """Yield ``(frame, probes, numbers)`` of each frame, in order; −1 for unknown probes."""
        for batch in _batches(frames):
            with self._decoding:  # who asks for another column meanwhile gets what is found here
                found = self._batch(batch)
            for frame in batch:
                yield frame, *found[frame]

    def _batch(self, frames: Sequence[int]) -> dict[int, tuple[NDArray[Any], Decoded]]:
        found, missing = _known(self._numbers, self.index, frames)
        for run, positions, of in self._by_run(missing):
            for position, decoded in self.index.readings[run].decoded(positions):
                kept = self.index.numbers_of(run, decoded.probes), decoded
                self._numbers.put((run, position), kept, decoded.size)
                found[of[position]] = kept
        return found

    def shapes(self, frames: Sequence[int], probes: Sequence[int]) -> Iterator[bytes]:
        """Yield the heights of histograms, some frames at a time.

        Returns:
            uint8 [frames][probes][bins], see `gammabeta.view.shapes.heights`; 0 where not measured.

        Raises:
            RecordError: a frame cannot be read.
        """
        row = len(probes) * axis.BINS
        some = max(1, min(_BATCH, _BLOCK // max(row, 1)))
        wanted = np.asarray(probes, dtype=np.int64)
        place = np.full(len(self.index.probes) + 1, -1, dtype=np.int64)
        for start in range(0, len(frames), some):
            batch = frames[start : start + some]
            block = np.zeros((len(batch), len(probes), axis.BINS), dtype=np.uint8)
            with self._decoding:
                found = self._heights(batch)
            for frame, (known, shapes) in found.items():
                place[:] = -1
                place[known[known >= 0]] = np.flatnonzero(known >= 0)
                rows = place[wanted]
                for i in (i for i, each in enumerate(batch) if each == frame):
                    block[i, rows >= 0] = shapes[rows[rows >= 0]]
            yield block.tobytes()

    def _heights(self, frames: Sequence[int]) -> dict[int, tuple[NDArray[Any], NDArray[np.uint8]]]:
        found, missing = _known(self._shapes, self.index, sorted(set(frames)))
        for frame, known, counts in self.histograms(missing):
            shapes = heights(counts)
            self._shapes.put(self.index.where[frame], (known, shapes), shapes.nbytes)
            found[frame] = known, shapes
        return found

    def histograms(self, frames: Sequence[int]) -> Iterator[tuple[int, NDArray[Any], NDArray[Any]]]:
        """Yield ``(frame, probes, counts)``, run by run; −1 for unknown probes."""
        for run, positions, of in self._by_run(frames):
            for position, own, counts in self.index.readings[run].histograms(positions):
                yield of[position], self.index.numbers_of(run, own), counts

    def channels(self, probe: int, step: int) -> list[float] | None:
        """Return the values by channel of a probe, see `Run.channels`."""
        run, own = self.index.probe_in_file(probe)
        (found,) = self.index.readings[run].channels([(own, step)])
        return None if found is None else found.tolist()

    def _by_run(self, frames: Sequence[int]) -> Iterator[tuple[int, list[int], dict[int, int]]]:
        """Yield ``(run, positions, position → frame)`` for each run that has frames."""
        of: dict[int, dict[int, int]] = {}
        for frame in frames:
            run, position = self.index.where[frame]
            of.setdefault(run, {})[position] = frame
        for run, positions in of.items():
            yield run, sorted(positions), positions


def _known(
    cache: Cache[Value], index: Index, frames: Sequence[int]
) -> tuple[dict[int, Value], list[int]]:
    """Return what is kept of ``frames``, and those of which nothing is."""
    kept = {frame: cache.get(index.where[frame]) for frame in frames}
    found = {frame: each for frame, each in kept.items() if each is not None}
    return found, [frame for frame in frames if frame not in found]


def column_names() -> tuple[str, ...]:
    """Return the names of the columns that there are."""
    return (*number_fields(), RMS)


def _values(decoded: Decoded, field: str) -> NDArray[Any]:
    if field != RMS:
        return decoded[field]
    mean, std = (decoded[each].astype(np.float64) for each in ("mean", "std"))
    with np.errstate(over="ignore"):
        rms: NDArray[Any] = np.hypot(mean, std).astype(np.float32)
    return rms


def _batches(frames: Iterable[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for frame in frames:
        batch.append(frame)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
