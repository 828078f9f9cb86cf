"""The data of a run: training mini-batches, and the test split in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from gammabeta.lab.data import (
    Arrays,
    Central,
    Distortions,
    Draws,
    Examples,
    Feed,
    Images,
    Order,
    Picture,
    Stream,
    Streamed,
)
from gammabeta.lab.data.distort import opened, tensor
from gammabeta.lab.data.examples import Example
from gammabeta.lab.data.feed import stacked
from gammabeta.lab.data.raw import DataError
from gammabeta.lab.train.network import Trainable
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.ranks import Ranks

TEST_BATCH = 256
_THREADS = 4


def feed_of(recipe: Trainable, plan: Plan, images: Images, ranks: Ranks) -> Feed:
    """Return the training mini-batches of this rank.

    Raises:
        ValueError: too few examples for the mini-batch and the number of ranks.
        DataError: distorted pictures need Pillow, which is missing.
    """
    examples = images.train
    distorted = plan.distortions == "paper" or (plan.distortions == "auto" and images.distorted)
    distort: Distortions | Central = Central(images.size)
    if distorted:
        distort = Distortions(images.size, recipe.weak_distortions)
    if isinstance(examples, Stream):
        return Streamed(
            examples,
            batch_size=recipe.batch_size,
            seed=plan.seed,
            distort=distort,
            block=plan.shard,
            within_shards=recipe.shuffle_within_shards,
            workers=plan.workers,
            rank=ranks.rank,
            ranks=ranks.count,
        )
    order = Order(
        len(examples),
        seed=plan.seed,
        shard=plan.shard,
        within_shards=recipe.shuffle_within_shards,
    )
    return Draws(
        examples,
        order,
        batch_size=recipe.batch_size,
        seed=plan.seed,
        distort=None if isinstance(examples, Arrays) and not distorted else distort,
        workers=plan.workers,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def held_out(images: Images, ranks: Ranks | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of the test split, or of this rank's part: (N, C, size, size) uint8 and labels.

    Raises:
        DataError: an image cannot be read.
    """
    rank, count = (ranks.rank, ranks.count) if ranks is not None else (0, 1)
    examples = images.test
    if isinstance(examples, Arrays):
        mine = range(rank, len(examples), count)
        for start in range(0, len(mine), TEST_BATCH):
            rows = torch.tensor(mine[start : start + TEST_BATCH])
            yield examples.images[rows], examples.labels[rows]
        return
    central = Central(images.size)
    with ThreadPoolExecutor(_THREADS) as pool:
        makers = islice(_makers(examples), rank, None, count)
        while chosen := list(islice(makers, TEST_BATCH)):
            yield stacked(pool.map(lambda make: _made(make, central), chosen))


def whole_pictures(images: Images) -> Iterator[tuple[Tensor, int]]:
    """Yield the test split one by one: (C, H, W) uint8 of any height and width, and the class.

    Raises:
        DataError: an image cannot be read.
    """
    for make in _makers(images.test):
        yield _made(make, lambda picture: tensor(opened(picture)))


def _makers(examples: Examples | Stream) -> Iterator[Callable[[], Example]]:
    """What gives each example, to be called in any thread."""
    if isinstance(examples, Stream):
        for shard in range(examples.shards):
            for number, example in enumerate(examples.read(shard)):
                yield partial(_named, example, f"example {number} of shard {shard}")
    else:
        for index in range(len(examples)):
            yield partial(examples.example, index)


def _named(example: Example, name: str) -> Example:
    try:
        return opened(example[0]), example[1]
    except (OSError, SyntaxError) as e:
        raise DataError(f"{name} of the test split cannot be decoded: {e}") from e


def _made(make: Callable[[], Example], change: Callable[[Picture], Tensor]) -> tuple[Tensor, int]:
    picture, label = make()
    return change(picture), label
