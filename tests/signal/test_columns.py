"""A frame as two blobs: what goes in comes out, and anything else is one clean error."""

from __future__ import annotations

import math
import random
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gammabeta.signal import axis
from gammabeta.signal.columns import (
    Columns,
    DamagedError,
    checksum,
    numeric,
    pack,
    unpack_histograms,
    unpack_values,
)
from gammabeta.signal.schema import FIELDS
from tests.signal.recorded import same, summary

NAMES = [each.name for each in numeric(FIELDS)]
INTEGERS = {each.name for each in FIELDS if each.sql == "INTEGER"}
NAN, INF = math.nan, math.inf


def columns(
    numbers: list[float], counts: list[int] | None = None, probes: list[int] | None = None
) -> Columns:
    """Return columns whose signals have ``numbers`` in each field, and ``counts`` in each bin."""
    size = len(numbers)
    values: dict[str, NDArray[Any]] = {}
    for name in NAMES:
        if name in INTEGERS:
            values[name] = np.arange(size, dtype=np.int64) * 2**40
        else:
            values[name] = np.array(numbers, dtype=np.float64)
    histograms = np.zeros((size, axis.BINS), dtype=np.int64)
    for row, count in zip(histograms, counts or [0] * size, strict=True):
        row[:] = np.arange(axis.BINS) % 7 + count
    ids = np.array(probes if probes is not None else range(size), dtype=np.int32)
    return Columns(ids, values, histograms)


def back(packed: Columns) -> Columns:
    values, histograms = pack(packed, FIELDS)
    probes, numbers = unpack_values(values, len(packed.probes), FIELDS)
    return Columns(probes, numbers, unpack_histograms(histograms, len(packed.probes)))


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [1.5],
        [NAN, 0.0, -0.0, INF, -INF, 1.0],
        [0.5, -3.4e37, 1e-37],
        [1.0] * 1000,
    ],
    ids=["nothing", "one", "no numbers", "far apart", "many"],
)
def test_what_float32_holds_comes_back_to_the_bit(numbers: list[float]) -> None:
    exact = [float(np.float32(x)) for x in numbers]
    before = columns(exact)
    blob, _ = pack(before, FIELDS)
    assert blob[:1] == b"f"
    after = back(before)
    assert after.probes.tolist() == before.probes.tolist()
    for name in NAMES:
        assert after.values[name].dtype == (np.int64 if name in INTEGERS else np.float64)
        assert after.values[name].tobytes() == before.values[name].tobytes(), name
    assert np.array_equal(after.histograms, before.histograms)


def test_other_numbers_are_rounded_to_float32() -> None:
    after = back(columns([1 / 3, 1e-3, -7.7e20]))
    for read, written in zip(after.values["mean"], [1 / 3, 1e-3, -7.7e20], strict=True):
        assert read == pytest.approx(written, rel=6e-8)
        assert read == float(np.float32(written))


@pytest.mark.parametrize("huge", [3.3e38, 1e39, -1e300, 1.7e308])
def test_numbers_beyond_float32_keep_all_digits(huge: float) -> None:
    before = columns([1 / 3, huge, NAN, INF, 5e-324])
    blob, _ = pack(before, FIELDS)
    assert blob[:1] == b"d"
    after = back(before)
    for name in NAMES:
        assert after.values[name].tobytes() == before.values[name].tobytes()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(), max_size=30), st.integers(0, 2**62))
def test_anything_comes_back(numbers: list[float], count: int) -> None:
    before = columns(numbers, [count // (i + 1) for i in range(len(numbers))])
    after = back(before)
    assert np.array_equal(after.histograms, before.histograms)
    finite = [abs(x) for x in numbers if math.isfinite(x)]
    exact = max(finite, default=0) >= 3e38
    for read, written in zip(after.values["std"], numbers, strict=True):
        if math.isnan(written):
            assert math.isnan(read)
        else:
            with np.errstate(under="ignore"):
                assert read == (written if exact else float(np.float32(written)))
    assert after.values["count"].tolist() == before.values["count"].tolist()


@pytest.mark.parametrize(
    ("largest", "code"),
    [(0, b"h"), (65_535, b"h"), (65_536, b"i"), (2**32 - 1, b"i"), (2**32, b"q")],
)
def test_counts_take_the_width_they_need(largest: int, code: bytes) -> None:
    before = columns([1.0, 2.0])
    before.histograms[:] = 0
    before.histograms[1, 255] = largest
    _, blob = pack(before, FIELDS)
    assert blob[:1] == code
    assert np.array_equal(back(before).histograms, before.histograms)


def test_ids_need_not_be_in_order() -> None:
    ids = [7, 0, 2**31 - 1, 3]
    assert back(columns([1.0, 2.0, 3.0, 4.0], probes=ids)).probes.tolist() == ids


def test_summaries_and_back() -> None:
    signals = {
        5: summary(1),
        2: summary(2, saturated=None, dead=None, gradient=None, mean=NAN, minimum=-INF),
        9: summary(3, count=2**40, norm=0.0, update=1e-9),
    }
    made = Columns.of(signals)
    assert made.probes.tolist() == [5, 2, 9]
    for found in (made.summaries(), back(made).summaries()):
        assert list(found) == [5, 2, 9]
        assert all(same(found[probe], signals[probe]) for probe in signals)
    none = Columns.of({})
    assert none.summaries() == {}
    assert back(none).summaries() == {}


def test_a_column_that_a_file_lacks() -> None:
    fields = tuple(each for each in FIELDS if each.name not in ("stderr", "gradient"))
    values, _ = pack(columns([1.0, 2.0]), fields)
    _, found = unpack_values(values, 2, fields)
    assert set(NAMES) - set(found) == {"stderr", "gradient"}
    read = Columns(np.arange(2), found, np.zeros((2, axis.BINS), dtype=np.int64)).summaries()
    assert (read[0].stderr, read[0].gradient, read[0].mean) == (None, None, 1.0)


def test_the_size_of_a_frame() -> None:
    """A thousand frames of a thousand signals are to take at most 300 MB."""
    signals = {i: summary(i + 1) for i in range(1000)}
    assert sum(map(len, pack(Columns.of(signals), FIELDS))) < 250_000


# What is no frame.


@pytest.fixture(scope="module")
def blobs() -> tuple[bytes, bytes]:
    return pack(Columns.of({i: summary(i + 1) for i in range(8)}), FIELDS)


def refused(values: bytes, histograms: bytes, probes: int = 8) -> None:
    """Both blobs are refused, with one line that says of what."""
    for unpack, blob in (
        (lambda b: unpack_values(b, probes, FIELDS), values),
        (lambda b: unpack_histograms(b, probes), histograms),
    ):
        with pytest.raises(DamagedError, match=r"^a frame") as caught:
            unpack(blob)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("probes", [0, 7, 9, 2**20])
def test_another_number_of_probes(blobs: tuple[bytes, bytes], probes: int) -> None:
    refused(*blobs, probes)


@pytest.mark.parametrize("length", [0, 1, 2, 10, 200, -1])
def test_a_blob_cut_short(blobs: tuple[bytes, bytes], length: int) -> None:
    refused(*(blob[:length] for blob in blobs))


@pytest.mark.parametrize("code", [b"x", b"\0", b"D", b"\xff"])
def test_an_unknown_form(blobs: tuple[bytes, bytes], code: bytes) -> None:
    refused(*(code + blob[1:] for blob in blobs))


def test_the_form_of_another(blobs: tuple[bytes, bytes]) -> None:
    values, histograms = blobs
    refused(b"d" + values[1:], b"i" + histograms[1:])  # a wider type than there are bytes
    refused(histograms, values)


def test_no_zlib() -> None:
    refused(b"f" + b"no zlib at all", b"h" + b"no zlib at all")


def test_bytes_changed_anywhere(blobs: tuple[bytes, bytes]) -> None:
    """Whatever is changed: an error of ours, or numbers of the right shape."""
    rng = random.Random(0)
    errors = 0
    for blob, unpack in zip(
        blobs,
        (lambda b: unpack_values(b, 8, FIELDS), lambda b: unpack_histograms(b, 8)),
        strict=True,
    ):
        for _ in range(200):
            damaged = bytearray(blob)
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            try:
                unpack(bytes(damaged))
            except DamagedError:
                errors += 1
    assert errors > 300  # zlib's own checksum finds nearly all


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A quarter of a gigabyte of zeros, compressed."""
    deflate = zlib.compressobj(1)
    zeros = bytes(1 << 20)
    blob = b"".join(deflate.compress(zeros) for _ in range(256)) + deflate.flush()
    assert len(blob) < 2 << 20
    return blob


@pytest.mark.parametrize("form", [b"f", b"d", b"h", b"i", b"q"])
def test_a_blob_that_inflates_to_much_more(form: bytes, bomb: bytes) -> None:
    """It says that it is 8 signals: never more is made than is due."""
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError, match="does not have the size that it says"):
            unpack_values(form + bomb, 8, FIELDS) if form in b"fd" else unpack_histograms(
                form + bomb, 8
            )
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_more_after_the_end(blobs: tuple[bytes, bytes]) -> None:
    """A blob whose data is longer by one byte."""
    values, histograms = blobs
    longer = [b[:1] + zlib.compress(zlib.decompress(b[1:]) + b"\0") for b in (values, histograms)]
    refused(*longer)


# The checksum.


def test_the_checksum_is_of_the_step_and_both_blobs(blobs: tuple[bytes, bytes]) -> None:
    values, histograms = blobs
    crc = checksum(7, values, histograms)
    assert crc == zlib.crc32(b"7" + values + histograms)
    assert 0 <= crc < 2**32
    others = {
        checksum(8, values, histograms),
        checksum(7, values[:-1] + b"\0", histograms),
        checksum(7, values, histograms[:-1] + b"\0"),
        checksum(7, histograms, values),
    }
    assert crc not in others


def test_the_layout_in_bytes() -> None:
    """A file's form does not change unnoticed: ids, then each field's bytes by significance."""
    made = columns([1.0, 2.0], probes=[3, 4])
    values, histograms = pack(made, FIELDS)
    data = zlib.decompress(values[1:])
    assert data[:8] == struct.pack("<2i", 3, 4)
    count, mean = data[8:24], data[24:32]
    assert FIELDS[0].name == "count"
    assert FIELDS[1].name == "mean"
    two = struct.pack("<q", 0), struct.pack("<q", 2**40)
    assert count == bytes(byte for pair in zip(*two, strict=True) for byte in pair)
    floats = struct.pack("<f", 1.0), struct.pack("<f", 2.0)
    assert mean == bytes(byte for pair in zip(*floats, strict=True) for byte in pair)
    counts = zlib.decompress(histograms[1:])
    assert counts[: 2 * axis.BINS] == bytes(i % 7 for i in range(axis.BINS)) * 2
    assert counts[2 * axis.BINS :] == bytes(2 * axis.BINS)
