"""Columns and shapes, compared with the record's summaries, one value at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gammabeta.signal import Record, RecordError, Run, axis
from gammabeta.view import store as stores
from gammabeta.view.runs import Runs
from gammabeta.view.shapes import heights
from gammabeta.view.store import Cache, Store, column_names
from tests.signal import version_1
from tests.signal.recorded import fill, summary
from tests.view.shown import as_heights, column, counts


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """2 arms × 5 frames × 8 probes; a frame has the probes of its arm only."""
    with Record(tmp_path / "run") as record:
        fill(record, 5)
    return record.path


def column_of(store: Store, field: str, first: int = 0, last: int | None = None) -> NDArray[Any]:
    size = store.index.size
    last = size.frames if last is None else last
    data = b"".join(store.column(field, first, last, size.probes))
    return np.frombuffer(data, dtype="<f4").reshape(last - first, size.probes)


def shapes_of(store: Store, frames: list[int], probes: list[int]) -> NDArray[Any]:
    data = b"".join(store.shapes(frames, probes))
    return np.frombuffer(data, dtype=np.uint8).reshape(len(frames), len(probes), axis.BINS)


@pytest.mark.parametrize("field", column_names())
def test_a_column(recorded: Path, field: str) -> None:
    given = column_of(Runs([recorded]).now().store, field)
    expected = column(recorded, field)
    assert np.isnan(expected).sum() >= given.size / 2  # of the other arm
    np.testing.assert_allclose(given, expected.astype(np.float32), rtol=1e-6)  # float32


def test_columns_are_the_same_in_small_blocks(
    recorded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stores, "_BLOCK", 200)  # three rows
    monkeypatch.setattr(stores, "_BATCH", 2)
    store = Runs([recorded]).now().store
    for first, last in ((0, 10), (3, 10), (7, 8), (10, 10)):
        given = column_of(store, "std", first, last)
        np.testing.assert_array_equal(given, column(recorded, "std")[first:last].astype("f4"))


def test_shapes(recorded: Path) -> None:
    store = Runs([recorded]).now().store
    expected = as_heights(counts(recorded))
    everything = shapes_of(store, list(range(10)), list(range(16)))
    # Half a step of rounding: numbers that end in .5 may be rounded to either side.
    np.testing.assert_allclose(everything.astype(int), expected.astype(int), atol=1)
    assert (everything > 0).tolist() == (expected > 0).tolist()
    assert everything.max() == 255
    for frames, probes in (([9], [15]), ([3, 1, 3], [2, 9, 2]), ([0, 1], list(range(8)))):
        np.testing.assert_array_equal(
            shapes_of(store, frames, probes), everything[np.ix_(frames, probes)]
        )


def test_exact_zeros_are_no_part_of_a_shape(tmp_path: Path) -> None:
    histogram = np.zeros(axis.BINS, dtype=np.int64)
    histogram[axis.BINS // 2] = 4000  # of which 3990 are exactly 0
    histogram[200] = 20
    import torch

    with Record(tmp_path / "run") as record:
        arm = record.arm("a")
        probe = record.probe(arm, 1, "relu", "activation", "relu")
        made = summary(1, histogram=torch.from_numpy(histogram), zeros=3990)
        record.write(arm, 1, {}, {probe: made})
    shape = shapes_of(Runs([record.path]).now().store, [0], [0])[0, 0]
    assert {i: int(h) for i, h in enumerate(shape) if h} == {axis.BINS // 2: 128, 200: 255}


def test_heights() -> None:
    given = heights(np.array([[0, 0, 0], [1, 2, 4], [1, 100_000, 0], [7, 0, 7]]))
    assert given.tolist() == [[0, 0, 0], [64, 128, 255], [1, 255, 0], [255, 0, 255]]
    assert given.dtype == np.uint8


def test_a_file_of_version_1(tmp_path: Path) -> None:
    path = version_1.write(tmp_path / "old.sqlite")
    store = Runs([path]).now().store
    np.testing.assert_allclose(column_of(store, "mean"), [[0.25, np.nan]])
    assert np.isnan(column_of(store, "sampled")).all()
    shape = shapes_of(store, [0], [0])[0, 0]
    assert {i: int(h) for i, h in enumerate(shape) if h} == {128: 85, 129: 255, 130: 170}


def test_a_frame_is_decoded_once(recorded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Runs([recorded]).now().store
    column_of(store, "mean")
    shapes_of(store, [1, 2], [0])

    def again(*_: object, **__: object) -> None:
        raise AssertionError("the file was read again")

    monkeypatch.setattr(Run, "frames", again)
    column_of(store, "std")
    column_of(store, "rms", 4)
    shapes_of(store, [2, 1], [5])
    with pytest.raises(AssertionError, match="was read again"):
        shapes_of(store, [3], [5])


def test_a_run_that_changed_under_us_is_refused(recorded: Path, tmp_path: Path) -> None:
    store = Runs([recorded]).now().store
    recorded.unlink()
    with Record(tmp_path / "run") as record:
        fill(record, 2)
    with pytest.raises(RecordError, match="has changed since it was read; reload the page"):
        column_of(store, "mean")


def test_a_cache_stays_small() -> None:
    cache: Cache[str] = Cache(100)
    for i in range(50):
        cache.put(i, str(i), 30)
        assert cache.held <= 100
        assert cache.get(i) == str(i)
    assert [i for i in range(50) if cache.get(i)] == [47, 48, 49]
    assert cache.get(47) == "47"  # used again, so that another goes
    cache.put("new", "new", 30)
    assert (cache.get(47), cache.get(48)) == ("47", None)
    cache.put("huge", "huge", 1000)  # kept alone: somebody may just be asking for it
    assert cache.get("huge") == "huge"
    assert cache.get("new") is None
