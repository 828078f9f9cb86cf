"""The harness, on a clock that only the contenders move."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable

import pytest

from gammabeta.lab.bench.timing import FEWEST, MOST, geometric_mean, interleave


class World:
    """A clock, and calls that take time on it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, *takes: float) -> Callable[[], None]:
        """A call that takes ``takes``, one after the other, then the last again and again."""
        times = list(takes)

        def run() -> None:
            self.calls.append(name)
            self.now += times.pop(0) if len(times) > 1 else times[0]

        return run


def test_medians_are_the_times_the_calls_take() -> None:
    world = World()
    contenders = {"fast": world.call("fast", 2.5e-3), "slow": world.call("slow", 5e-3)}
    timings = interleave(contenders, rounds=5, clock=world.clock)
    assert list(timings) == ["fast", "slow"]
    assert timings["fast"].q50 == pytest.approx(2.5e-3)
    assert timings["slow"].q50 == pytest.approx(5e-3)
    assert {t.rounds for t in timings.values()} == {5}
    assert {t.calls for t in timings.values()} == {1}


def test_short_calls_are_repeated_until_a_sample_lasts() -> None:
    world = World()
    timings = interleave({"tiny": world.call("tiny", 1e-6)}, rounds=3, clock=world.clock)
    assert 2000 <= timings["tiny"].calls <= 10_000
    assert timings["tiny"].q50 == pytest.approx(1e-6)


@pytest.mark.parametrize(("scale", "warms"), [(1.0, False), (2.5e-3, True)])
def test_quantiles_are_those_of_the_samples(scale: float, warms: bool) -> None:
    world = World()
    takes = [scale, scale]  # the first call, and how long one takes
    for tenth in range(11):
        takes += [9.0] if warms else []  # not timed, for a call of milliseconds
        takes += [scale * (1 + tenth)]
    timings = interleave({"it": world.call("it", *takes)}, rounds=11, clock=world.clock)
    found = timings["it"]
    assert [found.q20, found.q50, found.q80] == pytest.approx([3 * scale, 6 * scale, 9 * scale])
    assert len(world.calls) == len(takes)


def test_every_contender_has_its_turn_in_every_round_in_changing_order() -> None:
    world = World()
    contenders = {name: world.call(name, 2.5e-3) for name in "abc"}
    interleave(contenders, rounds=40, clock=world.clock)
    turns = world.calls[2 * 3 :: 2]  # each sample is one call untimed and one timed
    rounds = [tuple(turns[n : n + 3]) for n in range(0, len(turns), 3)]
    assert len(rounds) == 40
    assert all(sorted(order) == ["a", "b", "c"] for order in rounds)
    orders = Counter(rounds)
    assert len(orders) == 6
    assert max(orders.values()) < 20


@pytest.mark.parametrize(("seconds", "expected"), [(0.0, FEWEST), (0.25, 50), (1e6, MOST)])
def test_rounds_fill_the_time_there_is(seconds: float, expected: int) -> None:
    world = World()
    timings = interleave({"a": world.call("a", 2.5e-3)}, seconds=seconds, clock=world.clock)
    assert timings["a"].rounds == expected


def test_garbage_is_not_collected_meanwhile() -> None:
    enabled: list[bool] = []
    interleave({"a": lambda: enabled.append(gc.isenabled())}, rounds=1)
    assert enabled[0] is True
    assert enabled[-1] is False
    assert gc.isenabled()


def test_garbage_is_collected_again_after_a_failure() -> None:
    calls = iter([None, None])
    with pytest.raises(StopIteration):
        interleave({"a": lambda: next(calls)}, rounds=1, sample=0.0)
    assert gc.isenabled()


@pytest.mark.parametrize("arguments", [{"rounds": 0}, {"seconds": -1.0}, {"seconds": float("nan")}])
def test_bad_numbers_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        interleave({"a": lambda: None}, **arguments)  # type: ignore[arg-type]


def test_the_geometric_mean_of_ratios_and_of_their_inverses_agree() -> None:
    ratios = [0.5, 3.0, 8.0]
    assert geometric_mean(ratios) == pytest.approx(12 ** (1 / 3))
    assert geometric_mean([1 / r for r in ratios]) == pytest.approx(1 / geometric_mean(ratios))
    assert str(geometric_mean([])) == "nan"
