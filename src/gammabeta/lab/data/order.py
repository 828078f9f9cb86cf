"""The order of examples, a function of the seed and the epoch only."""

from __future__ import annotations

import numpy as np

from gammabeta.lab.data.examples import Indices

SHARD = 1024
"""Consecutive examples per shard, for data that is not stored in shards."""

_WRITTEN, _SHARDS, _WITHIN = 0, 1, 2  # what a stream of random numbers is for


class Order:
    """The order of the examples in each epoch.

    A large data set is stored in shards, files that each hold some examples in a random but fixed
    order. Each epoch reads the shards in a new order. The paper (section 4.2.1) also shuffles the
    examples *within* shards, so that the same examples do not always appear together in a
    mini-batch; it reports an improvement of about 1%.

    Here shards are blocks of consecutive examples of one fixed permutation.

    Args:
        size: number of examples.
        seed: random seed for the orders of the epochs. The permutation that fills the shards does
            not depend on it.
        shard: examples per shard.
        within_shards: shuffle examples within their shard.

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
        """Return the indices of the examples in the order of ``epoch`` (from 0)."""
        shards = draw(_SHARDS, self._seed, epoch).permutation(len(self._shards))
        if not self._within:
            return np.concatenate([self._shards[s] for s in shards])
        return np.concatenate(
            [draw(_WITHIN, self._seed, epoch, int(s)).permutation(self._shards[s]) for s in shards]
        )


def draw(*key: int) -> np.random.Generator:
    """Return an independent random generator for ``key``, integers of 0 or more."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))
