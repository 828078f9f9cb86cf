"""Mini-batches from any position: an interruption does not change them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from torch import Tensor

from gammabeta.lab.data.examples import Arrays, Examples, Indices, Picture
from gammabeta.lab.data.order import Order, draw

Position: TypeAlias = dict[str, int]
"""Position of a feed, saved in checkpoints. ``{}`` is the beginning."""

Distort: TypeAlias = Callable[[Picture, np.random.Generator], Tensor]
"""(picture, random generator) → (C, size, size) uint8."""

_AHEAD = 3
_DISTORTED = 3  # beside the streams of `order`


@dataclass(frozen=True)
class Batch:
    """Examples of one mini-batch.

    Attributes:
        x: (N, C, size, size) uint8.
        y: (N,) int64.
        after: the position of the batch that follows.
    """

    x: Tensor
    y: Tensor
    after: Position


class Feed(Protocol):
    """An endless source of mini-batches, epoch after epoch."""

    def batches(self, position: Position) -> Iterator[Batch]:
        """Yield the mini-batches from ``position`` on."""


class Draws:
    """Mini-batches of examples with random access.

    The examples of a mini-batch depend on the order's seed and the epoch. The distortion of an
    example depends on the seed, the epoch and the number of the example. Neither depends on the
    number of workers, on earlier mini-batches, or on the global random state. An epoch ends with
    the last full mini-batch.

    Args:
        examples: the training split.
        order: the order of the examples in each epoch.
        batch_size: examples per mini-batch of this process.
        seed: random seed for the distortions.
        distort: turns an example into network input; None leaves examples unchanged.
        workers: threads that prepare examples; 0 prepares them in the calling thread.
        rank, ranks: rank of this process and number of processes. Each process takes its part of
            the examples of a step.

    Raises:
        ValueError: there are fewer examples than ranks, or than one step needs.
    """

    def __init__(
        self,
        examples: Examples,
        order: Order,
        *,
        batch_size: int,
        seed: int,
        distort: Distort | None,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        size = len(examples)
        if ranks > size:
            raise ValueError(
                f"{ranks} ranks cannot share {size} training examples; start at most {size}"
            )
        if batch_size * ranks > size:
            each = f"{ranks} × " if ranks > 1 else ""
            raise ValueError(
                f"batch_size={batch_size} is too large: a step takes {each}{batch_size} of {size} "
                f"training examples; at most {size // ranks} will do"
            )
        self._examples = examples
        self._order = order
        self._batch_size = batch_size
        self._seed = seed
        self._distort = distort
        self._workers = workers
        self._rank = rank
        self._ranks = ranks

    def batches(self, position: Position) -> Iterator[Batch]:
        """Yield the mini-batches from ``position`` on."""
        if isinstance(self._examples, Arrays) and self._distort is None:
            return self._made(position, None)  # indexing is cheaper than a thread
        return self._prepared(position)

    def _prepared(self, position: Position) -> Iterator[Batch]:
        if not self._workers:
            yield from self._made(position, None)
            return
        with (
            ThreadPoolExecutor(self._workers, thread_name_prefix="gammabeta examples") as pool,
            closing(ahead(self._made(position, pool), _AHEAD)) as batches,
        ):
            yield from batches

    def _made(self, position: Position, pool: ThreadPoolExecutor | None) -> Iterator[Batch]:
        epoch, taken = position.get("epoch", 0), position.get("taken", 0)
        step = self._batch_size * self._ranks
        while True:
            order = self._order.epoch(epoch)
            while taken + step <= len(order):
                start = taken + self._rank * self._batch_size
                x, y = self._take(order[start : start + self._batch_size], epoch, pool)
                taken += step
                yield Batch(x, y, {"epoch": epoch, "taken": taken})
            epoch, taken = epoch + 1, 0

    def _take(
        self, chosen: Indices, epoch: int, pool: ThreadPoolExecutor | None
    ) -> tuple[Tensor, Tensor]:
        examples, distort = self._examples, self._distort
        if distort is None and isinstance(examples, Arrays):
            rows = torch.from_numpy(chosen)
            return examples.images[rows], examples.labels[rows]

        def one(index: int) -> tuple[Tensor, int]:
            picture, label = examples.example(index)
            if distort is None:
                return torch.as_tensor(picture), label
            return distort(picture, draw(_DISTORTED, self._seed, epoch, index)), label

        numbers = chosen.tolist()
        return stacked(pool.map(one, numbers) if pool is not None else map(one, numbers))


def stacked(pairs: Iterable[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return (N, C, H, W) and (N,) of pictures and classes."""
    pictures, labels = zip(*pairs, strict=True)
    return torch.stack(pictures), torch.tensor(labels)


def ahead(batches: Iterator[Batch], depth: int) -> Generator[Batch, None, None]:
    """Yield ``batches``, up to ``depth`` of them prepared by a thread while others are used.

    An exception in the thread is raised here, in place of the batch.
    """
    ready: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    ended = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not ended.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for batch in batches:
                if not put(batch):
                    return
            put(None)
        except BaseException as e:
            put(e)

    thread = threading.Thread(target=work, name="gammabeta batches", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()
