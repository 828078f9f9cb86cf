"""Training loops, watched or not, and the time they take in turns."""

from __future__ import annotations

import copy
import gc
import random
import time
from collections.abc import Callable, Mapping

import torch

from gammabeta.lab.bench.watch_nets import Network
from gammabeta.signal import Watch

Clock = Callable[[], float]


class Loop:
    """A training loop: each call takes one step.

    Args:
        network: a copy of it is trained.
        lr: learning rate; by default so small that the values, and with them the time, stay the
            same.

    Attributes:
        signal: the watch whose ``step`` is called after each step, if there is one.
    """

    def __init__(self, network: Network, lr: float = 1e-4) -> None:
        self.model = copy.deepcopy(network.model)
        self.signal: Watch | None = None
        self._loss = network.loss
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)

    def __call__(self) -> None:
        """Take one step."""
        self._optimizer.zero_grad()
        loss = self._loss(self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self.signal is not None:
            self.signal.step(loss=loss)

    def written(self) -> None:
        """Take one step, and wait until it is written."""
        self()
        self.write()

    def write(self) -> None:
        """Wait until the record has all frames."""
        if self.signal is not None:
            self.signal.record.flush()


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle: Callable[[], object] = lambda: None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time one call of each contender a round, in an order drawn anew.

    Args:
        contenders: name → what to call.
        rounds: number of rounds that are timed; one more comes before.
        settle: called after each call, outside the time.
        seed: of the orders.
        clock: a clock in seconds.

    Returns:
        name → seconds, a round each.

    Example:
        >>> {name: len(times) for name, times in alternate({"sum": lambda: sum([1])}, 3).items()}
        {'sum': 3}
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    order = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()  # and meanwhile as it comes: what frames leave behind is a part of their cost
    for round_ in range(rounds + 1):
        for name in order.sample(list(contenders), len(contenders)):
            start = clock()
            contenders[name]()
            taken = clock() - start
            settle()
            if round_:
                times[name].append(taken)
    return times
