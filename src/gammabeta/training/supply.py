"""What feeds a run: mini-batches to train on, and the test split in parts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gammabeta.training.images import Arrays, Draws, Feed, Images, Order
from gammabeta.training.network import Trainable
from gammabeta.training.plan import Plan
from gammabeta.training.ranks import Ranks

TEST_BATCH = 256


def feed_of(recipe: Trainable, plan: Plan, images: Images, ranks: Ranks) -> Feed:
    """Return the mini-batches of a run, of this rank.

    Raises:
        ValueError: too few examples for the mini-batch and the number of ranks.
    """
    order = Order(
        len(images.train),
        seed=plan.seed,
        shard=plan.shard,
        within_shards=recipe.shuffle_within_shards,
    )
    return Draws(
        images.train,
        order,
        batch_size=recipe.batch_size,
        seed=plan.seed,
        distort=None,
        workers=plan.workers,
        rank=ranks.rank,
        ranks=ranks.count,
    )


def test_batches(images: Images, ranks: Ranks) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's part of the test split: (N, C, size, size) uint8 and labels."""
    examples = images.test
    mine = range(ranks.rank, len(examples), ranks.count)
    for start in range(0, len(mine), TEST_BATCH):
        chosen = mine[start : start + TEST_BATCH]
        if isinstance(examples, Arrays):
            rows = torch.tensor(chosen)
            yield examples.images[rows], examples.labels[rows]
        else:
            pictures = [torch.as_tensor(examples.picture(i)) for i in chosen]
            yield torch.stack(pictures), torch.tensor([examples.label(i) for i in chosen])
