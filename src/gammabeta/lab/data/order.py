"""Which examples meet in which mini-batch: a function of the seed and the epoch alone."""

from __future__ import annotations

import numpy as np

from gammabeta.lab.data.examples import Indices

SHARD = 1024
"""Consecutive examples that make a shard, where the data has no files of its own."""

_WRITTEN, _SHARDS, _WITHIN = 0, 1, 2  # what a stream of random numbers is for


class Order:
    """The order of the examples in each epoch.

    A large data set is kept in shards, files that each hold some of its examples in an order that
    was drawn when they were written. An epoch reads the shards in a new order. What the paper
    changed (section 4.2.1) is the order *within* them: left as written, neighbours stay neighbours
    and meet again and again; shuffled, they do not, which it found to be worth about 1%.

    Here shards are blocks of consecutive examples of one fixed permutation.

    Args:
        size: number of examples.
        seed: of the epochs' orders. The permutation that fills the shards does not depend on it.
        shard: examples a shard.
        within_shards: whether examples are shuffled within their shard.

    Raises:
        ValueError: ``size`` or ``shard`` is less than 1.

    Source:
        Ioffe & Szegedy 2015, section 4.2.1, "Shuffle training examples more thoroughly".

    Example:
        >>> fixed = Order(6, seed=0, shard=3, within_shards=False)
        >>> sorted(fixed.epoch(0)) == sorted(fixed.epoch(1)) == list(range(6))
        True
        >>> {tuple(fixed.epoch(e)[:3]) for e in range(20)} == {  # one shard or the other
        ...     tuple(fixed.epoch(0)[:3]), tuple(fixed.epoch(0)[3:])
        ... }
        True
    """

    def __init__(
        self, size: int, *, seed: int, shard: int = SHARD, within_shards: bool = True
    ) -> None:
        for name, value in (("size", size), ("shard", shard)):
            if value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        self._seed = seed
        self._within = within_shards
        written = draw(_WRITTEN, size).permutation(size)
        self._shards = [written[start : start + shard] for start in range(0, size, shard)]

    def epoch(self, epoch: int) -> Indices:
        """Return the examples' numbers in the order of ``epoch`` (the first is 0)."""
        shards = draw(_SHARDS, self._seed, epoch).permutation(len(self._shards))
        if not self._within:
            return np.concatenate([self._shards[s] for s in shards])
        return np.concatenate(
            [draw(_WITHIN, self._seed, epoch, int(s)).permutation(self._shards[s]) for s in shards]
        )


def draw(*key: int) -> np.random.Generator:
    """Return a stream of random numbers of its own for ``key``: whole numbers, 0 or more."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
