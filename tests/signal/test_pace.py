"""What watching may cost: runs are simulated, with a clock that only says what it is told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gammabeta.signal import Cadence, Run, watch
from gammabeta.signal.pace import CHEAP, DEAR, FIRST, FREE_SECONDS, Pace
from gammabeta.signal.sampling import LEAST, SAMPLE

EVERY_STEP = Cadence(early=10**9)
Cost = Callable[[int, int], float]
"""(step, size of the sample) → seconds that a frame takes."""


@dataclass
class Simulated:
    """A run: its frames, and what they and the steps took."""

    pace: Pace
    frames: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    seconds: float = 0.0
    spent: float = 0.0

    @property
    def share(self) -> float:
        return self.spent / self.seconds


def simulate(pace: Pace, steps: int, step: float, frame: float | Cost) -> Simulated:
    """Train for ``steps`` steps of ``step`` seconds each, with frames of ``frame`` seconds."""
    run = Simulated(pace)
    for number in range(1, steps + 1):
        due = pace.due(number, run.seconds)
        run.seconds += step
        if not due:
            continue
        cost = frame(number, pace.sample) if callable(frame) else frame
        run.frames.append(number)
        run.samples.append(pace.sample)
        run.seconds += cost
        run.spent += cost
        pace.charge(cost / 2)  # on the training's thread, and on the one that writes
        pace.charge(cost / 2)
        pace.taken(run.seconds)
    assert pace.spent == pytest.approx(run.spent)
    return run


STEPS = [0.001, 0.01, 0.1, 1.0]
FRAMES = [0.01, 0.1, 1.0, 5.0]
"""What a frame takes, in steps."""


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.1])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("cadence", [Cadence(), EVERY_STEP], ids=["sparse", "every step"])
def test_a_run_pays_no_more_than_its_budget(
    cadence: Cadence, step: float, frame: float, budget: float
) -> None:
    """Runs longer than 10 s, and than 100 steps: at any moment after that."""
    cost = frame * step
    least = max(10.0, 100 * step)
    for seconds in (least, 3 * least, 20 * least):
        steps = math.ceil(seconds / step)
        if steps > 100_000:
            continue
        run = simulate(Pace(cadence, budget, fixed=True), steps, step, cost)
        # The first frames are free, up to a tenth of a second; and what a frame costs is known
        # only after two.
        assert run.spent <= max(budget * run.seconds, 2 * cost, FREE_SECONDS) + 1e-9
        if max(2 * cost, FREE_SECONDS) <= budget * least:
            assert run.share <= budget
        assert run.frames[0] == 1
        if FIRST * cost <= FREE_SECONDS:
            assert run.frames[:FIRST] == list(range(1, FIRST + 1))


@pytest.mark.parametrize("budget", [0.001, 0.01, 0.1])
def test_the_budget_is_made_use_of(budget: float) -> None:
    """Where every step is wanted, what may be spent is spent, also in the long run."""
    for seconds in (20, 60, 300):
        run = simulate(Pace(EVERY_STEP, budget), seconds * 50, 0.02, 0.1 * 0.02)
        assert 0.85 * budget <= run.share <= budget
    late = [step for step in run.frames if step > 10_000]
    gaps = [b - a for a, b in itertools.pairwise(late)]
    assert max(gaps) <= 2 * min(gaps)  # evenly, at the end


def test_early_frames_are_dense() -> None:
    """The first minutes are what people look at: the budget of 10 s is spent ahead."""
    run = simulate(Pace(Cadence(), 0.01), 3000, 0.02, 0.05 * 0.02)
    early = [step for step in run.frames if step <= 60]
    assert early[:FIRST] == list(range(1, FIRST + 1))
    assert len(early) >= 20
    # Ever fewer frames per step, and none much later than the cadence asks for.
    thirds = [sum(a < step <= 10 * a for step in run.frames) / (9 * a) for a in (3, 30, 300)]
    assert thirds[0] > 2 * thirds[1] > 4 * thirds[2] > 0
    asked = [step for step in range(1, 3001) if Cadence().due(step)]
    assert all(any(a <= step <= 1.3 * a + 5 for step in run.frames) for a in asked if a < 2000)


def test_cheap_frames_are_all_that_the_cadence_asks_for() -> None:
    run = simulate(Pace(Cadence(), 0.01), 3000, 0.02, 1e-6)
    assert run.frames == [step for step in range(1, 3001) if Cadence().due(step)]


def test_a_frame_that_was_put_off_is_taken_later() -> None:
    """A wanted step that the budget did not allow is made up for, once, by a later one."""
    cadence = Cadence(early=12, ratio=math.inf)
    run = simulate(Pace(cadence, 0.01), 60_000, 0.01, 0.5)  # each frame costs 50 steps
    first, late = run.frames  # steps 2 to 12 were wanted: one frame stands for all
    assert first == 1
    # 1% of 50 s is 0.5 s: what the first frame, the only one so far, has taken.
    assert 49 <= late * 0.01 <= 101


def test_the_last_step_is_a_frame_whatever_it_costs() -> None:
    run = simulate(Pace(Cadence(last=500), 0.001), 500, 0.01, 1.0)
    assert run.frames[-1] == 500


def test_frames_that_become_dearer() -> None:
    """What one frame takes is known from the last ones: an overdraft is made up for."""
    run = simulate(Pace(EVERY_STEP, 0.01), 20_000, 0.02, lambda n, _: 0.001 if n < 5000 else 0.02)
    assert run.share <= 0.01
    assert sum(step >= 5000 for step in run.frames) > 50


def test_a_first_frame_that_is_dear_does_not_stop_the_others() -> None:
    """The first one asks every module what it is; later ones are not judged by it."""
    run = simulate(Pace(EVERY_STEP, 0.01), 2000, 0.02, lambda n, _: 0.05 if n == 1 else 0.0005)
    assert len(run.frames) > 100
    assert run.share <= 0.01


def test_a_pause_is_no_budget_lost_or_won_for_good() -> None:
    """An hour of evaluation between two steps earns budget, which the next frames may use."""
    pace = Pace(EVERY_STEP, 0.01)
    run = simulate(pace, 1000, 0.02, 0.002)
    before = run.spent
    assert pace.due(1001, run.seconds + 3600)
    assert pace.spent == before


def test_frames_that_wait_for_the_disk() -> None:
    """While they do, no other one is taken; one that was wanted meanwhile is made up for."""
    cadence = Cadence(early=20, ratio=math.inf)
    pace = Pace(cadence, 0.01)
    due = [pace.due(step, 0.1 * step, held_up=5 <= step < 40) for step in range(1, 61)]
    assert [step for step, taken in enumerate(due, 1) if taken] == [1, 2, 3, 4, 40]


# The sample.


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        *((1.0, LEAST), (DEAR * 1.2, LEAST)),
        *((DEAR / 1.2, SAMPLE // 2), (CHEAP * 1.2, SAMPLE // 2), (CHEAP / 2, SAMPLE)),
    ],
)
def test_the_sample_goes_by_what_frames_cost(share: float, expected: int) -> None:
    run = simulate(Pace(EVERY_STEP, 0.01), 4000, 0.02, share * 0.02)
    assert run.samples[0] == run.samples[1] == SAMPLE // 2  # nothing is known before the second
    assert run.samples[-1] == expected


def test_the_sample_settles_where_its_cost_is_fair() -> None:
    """A frame's time goes with its sample: the size ends between dear and cheap, and stays."""

    def cost(_: int, sample: int) -> float:
        return 0.02 * 0.16 * sample / SAMPLE  # dear at 8192 and 4096, fair at 2048

    run = simulate(Pace(EVERY_STEP, 0.01), 4000, 0.02, cost)
    assert run.samples[-1] == SAMPLE // 4
    assert set(run.samples[10:]) == {SAMPLE // 4}


def test_the_sample_grows_again() -> None:
    run = simulate(Pace(EVERY_STEP, 0.01), 9000, 0.02, lambda n, _: 0.01 if n < 100 else 1e-5)
    assert LEAST in run.samples
    assert run.samples[-1] == SAMPLE


def test_a_cadence_keeps_its_sample() -> None:
    run = simulate(Pace(EVERY_STEP, None, fixed=True), 100, 0.02, 1.0)
    assert set(run.samples) == {SAMPLE}


# Without a budget, and what a person asks for.


def test_without_a_budget_the_cadence_decides_alone() -> None:
    cadence = Cadence(early=3, ratio=2.0)
    run = simulate(Pace(cadence, None), 100, 0.01, 10.0)
    assert run.frames == [step for step in range(1, 101) if cadence.due(step)]


def recorded(path: Path, steps: int, **options: Any) -> list[int]:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with watch(model, path, **options) as signal:
        for _ in range(steps):
            model(torch.ones(5, 3)).sum().backward()
            signal.step()
            signal.record.flush()  # none is left out because others wait for the disk
    with Run(path.with_suffix(".sqlite")) as run:
        return [moment.step for moment in run.index()]


@pytest.mark.parametrize(
    ("every", "steps"),
    [(1, [1, 2, 3, 4, 5, 6, 7]), (2, [1, 2, 4, 6]), (3, [1, 3, 6]), (7, [1, 7]), (100, [1])],
)
def test_every(tmp_path: Path, every: int, steps: list[int]) -> None:
    assert recorded(tmp_path / "run", 7, every=every) == steps


def test_every_and_a_budget(tmp_path: Path) -> None:
    """Both hold: no frame that `every` does not ask for, and a budget for what it does."""
    found = recorded(tmp_path / "run", 60, every=3, budget=1e-9)
    assert found == [1, 3, 6, 9]  # those among the first 10 steps; the others cost too much


def test_a_budget_alone_uses_the_usual_cadence(tmp_path: Path) -> None:
    assert recorded(tmp_path / "run", 60, budget=1e9) == list(range(1, 61))
    assert recorded(tmp_path / "other", 60, budget=1e-9) == list(range(1, 11))


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"every": 0}, ValueError, "every=0 must be at least 1"),
        ({"every": -2}, ValueError, "every=-2 must be at least 1"),
        ({"every": 1.5}, TypeError, "every=1.5 must be a whole number, at least 1"),
        ({"every": "2"}, TypeError, "every='2' must be a whole number, at least 1"),
        ({"every": True}, TypeError, "every=True must be a whole number, at least 1"),
        ({"budget": 0}, ValueError, "budget=0 must be above 0; 0.01 is 1% of the run's time"),
        ({"budget": -0.1}, ValueError, "budget=-0.1 must be above 0; 0.01 is 1%"),
        ({"budget": math.nan}, ValueError, "budget=nan must be above 0; 0.01 is 1%"),
        ({"budget": math.inf}, ValueError, "budget=inf must be above 0; 0.01 is 1%"),
        ({"budget": "1%"}, TypeError, "budget='1%' must be a number, such as 0.01"),
        ({"budget": True}, TypeError, "budget=True must be a number, such as 0.01"),
        (
            {"every": 2, "cadence": Cadence()},
            ValueError,
            "every and cadence exclude each other; give one of them",
        ),
        (
            {"ranks": "all", "budget": 0.01},
            ValueError,
            'budget and ranks="all" exclude each other: ranks would differ in frames',
        ),
        ({"ranks": "one"}, ValueError, "ranks='one' is not known; "),
    ],
)
def test_bad_arguments(
    tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error) as caught:
        watch(nn.Linear(2, 2), tmp_path / "run", **options)
    assert str(caught.value).startswith(said)
    assert list(tmp_path.iterdir()) == []


def test_what_watching_took_is_in_the_record(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with watch(model, tmp_path / "run", every=1) as signal:
        assert 0 <= signal.overhead < 1
        for _ in range(20):
            model(torch.ones(5, 3)).sum().backward()
            signal.step()
        assert 0 < signal.overhead < 2  # two threads
    with Run(tmp_path / "run.sqlite") as run:
        assert 0 < run.meta["overhead"] < 2
