"""The harness: contenders take turns, in random order, and their medians are compared.

A machine's clock, caches and neighbours change while it measures. What is measured in turns meets
the same changes, so that the ratio of two medians is steadier than either of them.
"""

from __future__ import annotations

import gc
import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

SAMPLE = 2e-3
"""Seconds that a sample lasts at least; shorter calls are repeated within one."""

WARM = 50e-3
"""Seconds that a call takes at most to be warmed up for: a longer one warms itself."""

FEWEST, MOST = 7, 201
"""Rounds: enough for the quantiles, and no more than help them."""

Call = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Timing:
    """How long one call takes.

    Attributes:
        q20, q50, q80: quantiles over the rounds, in seconds.
        rounds: how many samples there are.
        calls: how many calls one sample is the mean of.
        samples: seconds of each round, in the order of the rounds.
    """

    q20: float
    q50: float
    q80: float
    rounds: int
    calls: int
    samples: tuple[float, ...] = ()


def interleave(
    contenders: Mapping[Name, Call],
    *,
    seconds: float = 1.0,
    rounds: int | None = None,
    sample: float = SAMPLE,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, Timing]:
    """Time ``contenders`` in turns.

    In each round every contender has one sample, in an order drawn anew. A sample is as many calls
    as last for ``sample``, after as many that are not timed: they bring its data and code back into
    the caches, which takes a handful of calls (one that is longer than `WARM` does without).
    Garbage is collected before, not meanwhile.

    Args:
        contenders: name → what to call.
        seconds: how long all rounds together should take; at least `FEWEST` rounds run.
        rounds: how many rounds to run instead of what ``seconds`` allows.
        sample: the shortest sample, in seconds.
        seed: of the orders.
        clock: a clock in seconds.

    Returns:
        name → its `Timing`, in the order of ``contenders``.

    Raises:
        ValueError: ``rounds`` is less than 1, or ``seconds`` is negative or no number.

    Example:
        >>> timings = interleave({"sum": lambda: sum(range(100))}, rounds=3)
        >>> timings["sum"].rounds, timings["sum"].calls > 1
        (3, True)
    """
    if rounds is not None and rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    if not seconds >= 0:
        raise ValueError(f"seconds={seconds} must be 0 or more")
    calls: dict[Name, int] = {}
    warmed: dict[Name, bool] = {}
    round_takes = 0.0
    for name, call in contenders.items():
        call()  # what is made at the first call (buffers, compiled code) is no one's time
        calls[name], takes = _calls(call, sample, clock)
        warmed[name] = takes / calls[name] <= WARM
        round_takes += takes * (1 + warmed[name])
    if rounds is None:
        rounds = min(MOST, max(FEWEST, math.floor(seconds / max(round_takes, 1e-9))))
    order = random.Random(seed)
    times: dict[Name, list[float]] = {name: [] for name in contenders}
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(rounds):
            for name in order.sample(list(contenders), len(contenders)):
                call, repeats = contenders[name], range(calls[name])
                if warmed[name]:
                    for _ in repeats:
                        call()
                start = clock()
                for _ in repeats:
                    call()
                times[name].append((clock() - start) / calls[name])
    finally:
        if collects:
            gc.enable()
    found = {}
    for name, taken in times.items():
        q20, q50, q80 = map(float, np.quantile(taken, (0.2, 0.5, 0.8)))
        found[name] = Timing(q20, q50, q80, rounds, calls[name], tuple(taken))
    return found


def paired(over: Timing, under: Timing) -> tuple[float, float, float]:
    """Return quantiles (20, 50 and 80 %) of the ratio of two timings of the same rounds.

    What changes from round to round meets both, so that the ratio is steadier than that of the
    medians.

    Example:
        >>> a, b = Timing(1, 2, 4, 2, 1, (2.0, 4.0)), Timing(1, 2, 3, 2, 1, (1.0, 2.0))
        >>> paired(a, b)
        (2.0, 2.0, 2.0)
    """
    ratios = np.array(over.samples) / np.array(under.samples)
    q20, q50, q80 = map(float, np.quantile(ratios, (0.2, 0.5, 0.8)))
    return q20, q50, q80


def _calls(call: Call, sample: float, clock: Callable[[], float]) -> tuple[int, float]:
    """How many calls last for ``sample``, and how long they took."""
    count = 1
    while True:
        start = clock()
        for _ in range(count):
            call()
        takes = clock() - start
        if takes >= sample:
            return count, takes
        # Half as much again as it seems to need: the last ones were slower than the next will be.
        count = max(count + 1, min(100 * count, math.ceil(1.5 * count * sample / max(takes, 1e-9))))


def geometric_mean(ratios: list[float]) -> float:
    """Return the geometric mean of ``ratios``, NaN if there are none.

    Example:
        >>> geometric_mean([1.0, 4.0])
        2.0
    """
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) if ratios else math.nan
