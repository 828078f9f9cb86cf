"""Orders, mini-batches and distortions: functions of the seed, whatever happens around them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gammabeta.lab.data import (
    Arrays,
    Batch,
    Central,
    Distortions,
    Draws,
    Feed,
    Order,
    Position,
    Streamed,
)
from gammabeta.lab.data.distort import crop
from gammabeta.lab.data.examples import Example
from gammabeta.lab.data.order import draw
from gammabeta.lab.data.raw import DataError


@given(st.integers(1, 300), st.integers(1, 64), st.booleans(), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_every_example_comes_once_an_epoch(size: int, shard: int, within: bool, epoch: int) -> None:
    order = Order(size, seed=3, shard=shard, within_shards=within).epoch(epoch)
    assert sorted(order) == list(range(size))


def test_the_same_examples_meet_unless_they_are_shuffled_within_shards() -> None:
    def companies(within: bool) -> list[set[frozenset[int]]]:
        order = Order(64, seed=0, shard=16, within_shards=within)
        return [
            {frozenset(map(int, order.epoch(e)[s : s + 8])) for s in range(0, 64, 8)}
            for e in range(3)
        ]

    fixed, shuffled = companies(False), companies(True)
    assert fixed[0] == fixed[1] == fixed[2]
    assert shuffled[0] != shuffled[1] != shuffled[2]


def test_shuffling_within_shards_stays_within_shards() -> None:
    fixed = Order(64, seed=0, shard=16, within_shards=False).epoch(0).reshape(4, 16)
    mixed = Order(64, seed=0, shard=16, within_shards=True).epoch(0).reshape(4, 16)
    assert [set(shard) for shard in mixed] == [set(shard) for shard in fixed]


def test_orders_depend_on_seed_and_epoch_alone() -> None:
    order = Order(100, seed=1)
    second = order.epoch(1).tolist()
    assert order.epoch(0).tolist() != second
    assert Order(100, seed=1).epoch(1).tolist() == second
    assert Order(100, seed=2).epoch(1).tolist() != second
    for name, value in (("size", 0), ("shard", -1)):
        with pytest.raises(ValueError, match=f"{name}={value} must be at least 1"):
            Order(**{"size": 5, "shard": 5, name: value}, seed=0)


COUNT = 50
PIXELS = Arrays(
    torch.arange(COUNT, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 12, 12).contiguous(),
    torch.arange(COUNT) % 7,
)


class Parts:
    """A stream of three shards of unequal length."""

    ends = (0, 9, 30, COUNT)

    def __init__(self, shards: int = 3) -> None:
        self.shards = shards

    def read(self, shard: int) -> Iterator[Example]:
        low, high = self.ends[shard : shard + 2] if self.shards == 3 else (0, COUNT)
        for index in range(low, high):
            yield PIXELS.example(index)


def draws(distort: bool = False, workers: int = 0, rank: int = 0, ranks: int = 1) -> Feed:
    return Draws(
        PIXELS,
        Order(COUNT, seed=5, shard=20),
        batch_size=8 // ranks,
        seed=5,
        distort=Distortions(10, weak=False) if distort else None,
        workers=workers,
        rank=rank,
        ranks=ranks,
    )


def streamed(workers: int = 0, rank: int = 0, ranks: int = 1, shards: int = 3) -> Feed:
    return Streamed(
        Parts(shards),
        batch_size=8 // ranks,
        seed=5,
        distort=Distortions(10, weak=False),
        block=6,
        workers=workers,
        rank=rank,
        ranks=ranks,
    )


def some(feed: Feed, count: int, position: Position | None = None) -> list[Batch]:
    batches = feed.batches(position or {})
    try:
        return list(islice(batches, count))
    finally:
        batches.close()  # type: ignore[attr-defined]


def equal(left: list[Batch], right: list[Batch]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and a.after == b.after
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("make", [draws, streamed], ids=["draws", "streamed"])
def test_any_position_goes_on_as_if_nothing_had_been(make: type) -> None:
    whole = some(make(), 20)  # three epochs
    assert whole[-1].after["epoch"] >= 2
    for at in (1, 5, 6, 7, 13, 19):
        assert equal(some(make(), 20 - at, whole[at - 1].after), whole[at:])


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_nothing(workers: int) -> None:
    assert equal(some(draws(True, workers), 9), some(draws(True, 0), 9))
    assert equal(some(streamed(workers), 9), some(streamed(0), 9))


def test_distortions_depend_on_the_epoch_and_the_example() -> None:
    ramp = Arrays(
        torch.arange(144, dtype=torch.uint8).view(1, 1, 12, 12).expand(16, 3, -1, -1).contiguous(),
        torch.arange(16),
    )
    feed = Draws(
        ramp, Order(16, seed=0), batch_size=16, seed=0, distort=Distortions(10, weak=False)
    )
    pictures = [
        {int(label): picture for label, picture in zip(batch.y, batch.x, strict=True)}
        for batch in some(feed, 2)
    ]
    each = [*pictures[0].values(), *pictures[1].values()]
    assert len({picture.numpy().tobytes() for picture in each}) == 32


def test_ranks_share_what_one_process_would_have_taken() -> None:
    alone = some(draws(), 6)
    first, second = (some(draws(rank=rank, ranks=2), 6) for rank in (0, 1))
    for whole, a, b in zip(alone, first, second, strict=True):
        assert torch.equal(whole.y, torch.cat([a.y, b.y]))
        assert whole.after == a.after == b.after


@pytest.mark.parametrize("shards", [1, 3])
def test_ranks_share_a_stream(shards: int) -> None:
    """Over an epoch each example is somebody's, and nobody else's."""
    seen = []
    for rank in (0, 1):
        batches = some(streamed(rank=rank, ranks=2, shards=shards), 30)
        first = [b for b in batches if b.after["epoch"] == 0]
        seen.append(sum(len(b.y) for b in first))
    # Those in a batch that begins the next epoch are not counted.
    assert COUNT - 8 < sum(seen) <= COUNT


def test_too_many_ranks_or_too_large_a_batch() -> None:
    with pytest.raises(ValueError, match="60 ranks cannot share 50 training examples"):
        Draws(PIXELS, Order(50, seed=0), batch_size=1, seed=0, distort=None, ranks=60)
    with pytest.raises(ValueError, match=r"takes 2 × 30 of 50 .* at most 25 will do"):
        Draws(PIXELS, Order(50, seed=0), batch_size=30, seed=0, distort=None, ranks=2)


def test_what_a_worker_raises_is_raised_where_the_batch_would_have_been() -> None:
    class Broken(Parts):
        def read(self, shard: int) -> Iterator[Example]:
            yield b"no image", 0

    feed = Streamed(
        Broken(), batch_size=1, seed=0, distort=Distortions(10, weak=True), block=4, workers=2
    )
    with pytest.raises(DataError, match=r"example 0 of shard \d cannot be decoded"):
        next(feed.batches({}))

    class Empty(Parts):
        def read(self, shard: int) -> Iterator[Example]:
            return iter(())

    feed = Streamed(Empty(), batch_size=1, seed=0, distort=Central(10), block=4)
    with pytest.raises(DataError, match="no examples for rank 0"):
        next(feed.batches({}))


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=100, deadline=None)
def test_a_crop_is_inside_and_as_the_paper_has_it(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = crop(width, height, draw(seed))
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height
    if min(width, height) > 30:  # else rounding to whole pixels is most of it
        w, h = right - left, bottom - top
        assert 0.07 < w * h / (width * height) <= 1
        assert 0.7 < w / h < 1.42


def test_crops_are_of_all_sizes() -> None:
    crops = [crop(100, 100, draw(seed)) for seed in range(400)]
    areas = [(right - left) * (bottom - top) / 1e4 for left, top, right, bottom in crops]
    # Evenly between 8 % and 100 %, but for crops that do not fit.
    assert min(areas) < 0.12
    assert max(areas) > 0.85
    assert 0.42 < sum(areas) / 400 < 0.56


def test_pictures_are_mirrored_half_of_the_time_and_shaded_within_bounds() -> None:
    ramp = np.tile(np.linspace(60, 160, 32).astype(np.uint8), (32, 1))
    picture = Image.fromarray(np.stack([ramp] * 3, -1))
    mirrored, means = 0, {True: [], False: []}
    for seed in range(200):
        for weak in (True, False):
            out = Distortions(16, weak)(picture, draw(seed)).float()
            assert out.shape == (3, 16, 16)
            means[weak].append(float(out.mean()))
        mirrored += float(out[:, :, 0].mean()) > float(out[:, :, -1].mean())
    assert 75 < mirrored < 125
    assert np.std(means[True]) < np.std(means[False])
    assert min(means[True]) > 60 * 0.7


def test_a_central_crop_of_the_right_size_is_the_picture() -> None:
    picture = torch.randint(0, 256, (3, 10, 10), dtype=torch.uint8)
    assert torch.equal(Central(10)(picture), picture)
    wide = Image.fromarray(np.zeros((20, 50, 3), np.uint8))
    assert Central(10)(wide).shape == (3, 10, 10)
