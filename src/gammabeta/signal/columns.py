"""The signals of one frame as columns: one array a field, and their packed form in a file.

A frame is stored as two blobs, so that a reader who needs one number of each signal does not have
to unpack the histograms. The fields of the file, in order, are in its ``meta`` table.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gammabeta.signal import axis, schema
from gammabeta.signal.schema import Field, Summary

Values = dict[str, NDArray[Any]]

_LEVEL = 1
_FLOATS: dict[bytes, np.dtype[Any]] = {b"f": np.dtype("<f4"), b"d": np.dtype("<f8")}
_INTEGER: np.dtype[Any] = np.dtype("<i8")
_COUNTS: dict[bytes, np.dtype[Any]] = {
    b"h": np.dtype("<u2"),
    b"i": np.dtype("<u4"),
    b"q": np.dtype("<u8"),
}


class DamagedError(ValueError):
    """A blob is not what `pack` makes."""


@dataclass(frozen=True)
class Columns:
    """All signals of one frame.

    Attributes:
        probes: (P,) int32 ids.
        values: field → (P,) values: float64, NaN where not measured or nothing was finite; int64
            for fields that are always known.
        histograms: (P, BINS) counts.
    """

    probes: NDArray[Any]
    values: Values
    histograms: NDArray[Any]

    @classmethod
    def of(cls, signals: Mapping[int, Summary]) -> Columns:
        """Return the columns of ``signals``, probe id → summary."""
        values: Values = {}
        for each in numeric(schema.FIELDS):
            known = [getattr(summary, each.name) for summary in signals.values()]
            kind = np.int64 if each.sql == "INTEGER" else np.float64
            values[each.name] = np.array([math.nan if v is None else v for v in known], dtype=kind)
        empty = np.zeros((0, axis.BINS), dtype=np.int64)
        counts = [summary.histogram.numpy() for summary in signals.values()]
        return cls(
            np.array(list(signals), dtype=np.int32), values, np.stack(counts) if counts else empty
        )

    def summaries(self) -> dict[int, Summary]:
        """Return the signals as objects, probe id → summary."""
        known = numeric(schema.FIELDS)
        columns: list[list[Any]] = []
        for each in known:
            if each.name not in self.values:
                columns.append([each.absent] * len(self.probes))
                continue
            column = self.values[each.name].tolist()
            if each.missing == "none":
                column = [None if math.isnan(v) else v for v in column]
            columns.append(column)
        names = [each.name for each in known]
        found = {}
        for i, probe in enumerate(self.probes.tolist()):
            histogram = torch.from_numpy(self.histograms[i].astype(np.int64))
            row: dict[str, Any] = {n: column[i] for n, column in zip(names, columns, strict=True)}
            found[probe] = schema.Summary(histogram=histogram, **row)
        return found


def numeric(fields: Sequence[Field]) -> tuple[Field, ...]:
    """Return the fields that are numbers: all but the histogram."""
    return tuple(each for each in fields if each.sql != "BLOB")


def pack(columns: Columns, fields: Sequence[Field]) -> tuple[bytes, bytes]:
    """Return ``columns`` as two blobs: the numbers and the histograms."""
    reals = [columns.values[f.name] for f in numeric(fields) if f.sql == "REAL"]
    code = b"f" if all(_fits_float32(each) for each in reals) else b"d"
    parts = [columns.probes.astype("<i4").tobytes()]
    for each in numeric(fields):
        kind = _INTEGER if each.sql == "INTEGER" else _FLOATS[code]
        parts.append(_shuffled(columns.values[each.name].astype(kind)))
    largest = int(columns.histograms.max(initial=0))
    width = next(code for code, kind in _COUNTS.items() if largest < 2 ** (8 * kind.itemsize))
    counts = columns.histograms.astype(_COUNTS[width])
    return (
        code + zlib.compress(b"".join(parts), _LEVEL),
        width + zlib.compress(_shuffled(counts), _LEVEL),
    )


def unpack_values(blob: bytes, probes: int, fields: Sequence[Field]) -> tuple[NDArray[Any], Values]:
    """Return the ids and the numbers in ``blob``.

    Args:
        blob: the first blob of `pack`.
        probes: how many probes it has.
        fields: those of the file, in its order.

    Raises:
        DamagedError: the blob is not of that form.
    """
    known = numeric(fields)
    code = blob[:1]
    if code not in _FLOATS:
        raise DamagedError("a frame's values have an unknown form")
    sizes = [8 if each.sql == "INTEGER" else _FLOATS[code].itemsize for each in known]
    data = _inflated(blob[1:], probes * (4 + sum(sizes)))
    ids = np.frombuffer(data, dtype="<i4", count=probes)
    values: Values = {}
    at = 4 * probes
    for each, size in zip(known, sizes, strict=True):
        kind = _INTEGER if each.sql == "INTEGER" else _FLOATS[code]
        column = _unshuffled(data[at : at + probes * size], kind)
        values[each.name] = column.astype(np.int64 if each.sql == "INTEGER" else np.float64)
        at += probes * size
    return ids.astype(np.int32), values


def unpack_histograms(blob: bytes, probes: int) -> NDArray[Any]:
    """Return the histograms in ``blob``, the second one of `pack`: (probes, BINS) int64.

    Raises:
        DamagedError: the blob is not of that form.
    """
    if blob[:1] not in _COUNTS:
        raise DamagedError("a frame's histograms have an unknown form")
    kind = _COUNTS[blob[:1]]
    data = _inflated(blob[1:], probes * axis.BINS * kind.itemsize)
    return _unshuffled(data, kind).astype(np.int64).reshape(probes, axis.BINS)


def checksum(step: int, values: bytes, histograms: bytes) -> int:
    """Return the CRC-32 of a frame."""
    return zlib.crc32(histograms, zlib.crc32(values, zlib.crc32(str(step).encode())))


def _fits_float32(column: NDArray[Any]) -> bool:
    sizes = np.abs(column[np.isfinite(column)])
    return bool(sizes.max(initial=0) < 3e38)


def _shuffled(column: NDArray[Any]) -> bytes:
    """Return the first byte of each value, then the second, …: it compresses better."""
    return np.ascontiguousarray(_bytes(column).T).tobytes()


def _unshuffled(data: bytes, kind: np.dtype[Any]) -> NDArray[Any]:
    planes = np.frombuffer(data, dtype=np.uint8).reshape(kind.itemsize, -1)
    return np.ascontiguousarray(planes.T).view(kind).reshape(-1)


def _bytes(column: NDArray[Any]) -> NDArray[Any]:
    flat = np.ascontiguousarray(column).reshape(-1)
    return flat.view(np.uint8).reshape(len(flat), column.dtype.itemsize)


def _inflated(blob: bytes, size: int) -> bytes:
    """Decompress ``blob``, which must give ``size`` bytes; never more are made."""
    inflate = zlib.decompressobj()
    try:
        data = inflate.decompress(blob, size + 1)
    except zlib.error as e:
        raise DamagedError(f"a frame cannot be decompressed ({e})") from e
    if len(data) != size or not inflate.eof:
        raise DamagedError("a frame does not have the size that it says")
    return data
