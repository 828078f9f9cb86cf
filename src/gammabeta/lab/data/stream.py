"""Mini-batches of a stream of examples, from any position."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from gammabeta.lab.data.examples import Example, Stream
from gammabeta.lab.data.feed import Batch, Distort, Position, ahead, stacked
from gammabeta.lab.data.order import draw
from gammabeta.lab.data.raw import DataError

_AHEAD = 3
_SHARDS, _WITHIN, _DISTORTED = 6, 7, 8  # streams of random numbers beside the others


@dataclass(frozen=True)
class _Place:
    """An example, and where the one after it is."""

    example: Example
    epoch: int
    shard: int
    number: int
    after: Position


class Streamed:
    """Mini-batches of a stream.

    Each epoch reads the shards in a new order; within a shard, blocks of consecutive examples are
    shuffled. The shards are divided among the ranks, or if there are too few, the examples of each
    shard. After an interruption the current shard is read again from its beginning, and the
    examples already used are skipped.

    Args:
        stream: the training split.
        batch_size: examples per mini-batch of this process.
        seed: random seed for orders and distortions.
        distort: turns an example into network input.
        block: number of examples held in memory for shuffling.
        within_shards: shuffle blocks within a shard; otherwise keep the stored order.
        workers: threads that decode and distort.
        rank, ranks: rank of this process and number of processes.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        batch_size: int,
        seed: int,
        distort: Distort,
        block: int,
        within_shards: bool = True,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._stream = stream
        self._batch_size = batch_size
        self._seed = seed
        self._distort = distort
        self._block = block
        self._within = within_shards
        self._workers = workers
        self._rank = rank
        self._ranks = ranks

    def batches(self, position: Position) -> Iterator[Batch]:
        """Yield the mini-batches, starting at ``position``.

        Raises:
            DataError: the stream has no examples for this rank, or one cannot be decoded.
        """
        with (
            ThreadPoolExecutor(max(1, self._workers)) as pool,
            closing(ahead(self._made(position, pool), _AHEAD)) as batches,
        ):
            yield from batches

    def _made(self, position: Position, pool: ThreadPoolExecutor) -> Iterator[Batch]:
        places = self._places(position)
        while True:
            chosen = list(islice(places, self._batch_size))
            x, y = stacked(pool.map(self._one, chosen))
            yield Batch(x, y, chosen[-1].after)

    def _one(self, place: _Place) -> tuple[Tensor, int]:
        picture, label = place.example
        random = draw(_DISTORTED, self._seed, place.epoch, place.shard, place.number)
        try:
            return self._distort(picture, random), label
        except (OSError, SyntaxError) as e:
            raise DataError(
                f"example {place.number} of shard {place.shard} cannot be decoded: {e}"
            ) from e

    def _places(self, position: Position) -> Iterator[_Place]:
        """Yield this rank's examples for ever, beginning at ``position``."""
        epoch = position.get("epoch", 0)
        at, taken = position.get("shard", 0), position.get("taken", 0)
        while True:
            order = draw(_SHARDS, self._seed, epoch).permutation(self._stream.shards)
            shared = len(order) >= self._ranks
            mine = [int(s) for s in (order[self._rank :: self._ranks] if shared else order)]
            found = bool(at or taken)
            while at < len(mine):
                for place in self._shard(epoch, at, mine[at], taken, shared):
                    found = True
                    yield place
                at, taken = at + 1, 0
            if not found:
                raise DataError(f"the stream has no examples for rank {self._rank}")
            epoch, at = epoch + 1, 0

    def _shard(self, epoch: int, at: int, shard: int, taken: int, shared: bool) -> Iterator[_Place]:
        examples = enumerate(self._stream.read(shard))
        if not shared:
            examples = islice(examples, self._rank, None, self._ranks)  # type: ignore[assignment]
        whole = taken // self._block * self._block
        done = whole
        examples = islice(examples, whole, None)  # type: ignore[assignment]
        while block := list(islice(examples, self._block)):
            if self._within:
                order = draw(_WITHIN, self._seed, epoch, shard, done // self._block)
                block = [block[i] for i in order.permutation(len(block))]
            for number, example in block:
                done += 1
                if done > taken:
                    after = {"epoch": epoch, "shard": at, "taken": done}
                    yield _Place(example, epoch, shard, number, after)
