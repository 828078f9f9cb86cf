"""A clinic within a budget: which steps it observes, and that the others mislead no rule."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.doctor import Clinic
from gammabeta.doctor.training.throttle import FIRST, Throttle
from gammabeta.signal.cadence import Cadence
from gammabeta.signal.pace import Pace


class Clock:
    """A clock that somebody turns; each look at it may take time, too."""

    def __init__(self, look: float = 0.0) -> None:
        self.now = 0.0
        self.look = look

    def __call__(self) -> float:
        self.now += self.look
        return self.now


def observed(steps: int, *, step: float, cost: float, share: float | None = 0.005) -> list[bool]:
    """Return which of the steps are observed."""
    clock = Clock()
    throttle = Throttle(share, clock, clock)
    now, all_of_them = True, []
    for _ in range(steps):
        all_of_them.append(now)
        throttle.spent += cost * now
        clock.now += step
        now = throttle.ends(now)
    return all_of_them


def test_the_share_is_kept_in_the_long_run() -> None:
    steps, step, cost = 20_000, 0.005, 0.0005
    seen = observed(steps, step=step, cost=cost)
    assert all(seen[:FIRST])
    assert 0.7 * 0.005 <= sum(seen) * cost / (steps * step) <= 0.005
    assert all(any(seen[i : i + 400]) for i in range(0, steps, 400))


def test_dense_first_and_then_thinner() -> None:
    seen = observed(1500, step=0.002, cost=0.0002)
    early, late = sum(seen[FIRST:300]), sum(seen[1250:])
    assert early > 50
    assert 2 <= late < early / 4


@pytest.mark.parametrize(("step", "share"), [(0.5, 0.005), (0.001, None)])
def test_all_steps_where_it_is_cheap_or_there_is_no_budget(
    step: float, share: float | None
) -> None:
    assert all(observed(2000, step=step, cost=0.0005, share=share))


def test_frames_keep_half_of_the_budget() -> None:
    pace = Pace(Cadence(early=10_000), 0.01)
    for step in range(1, 1000):
        pace.due(step, 0.0)
    pace.spent, pace.others = 0.4, 1e9  # of 1.0 that is allowed
    assert pace.due(1000, 100.0)
    pace.spent, pace.others = 0.6, 0.3
    assert pace.due(1001, 100.0)
    pace.others = 0.45
    assert not pace.due(1002, 100.0)


# The clinic


class Training:
    """A training whose clinic may observe few steps after the first ones."""

    def __init__(self, cost: float = 0.001) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2)
        )
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.clinic = Clinic(self.model, self.optimizer, ["GB30", "GB310", "GB313"])
        self.clock = Clock()
        self.clinic.throttle = Throttle(0.005, self.clock, Clock(cost))
        self.model.register_forward_pre_hook(self.clinic.before, with_kwargs=True)
        self.model.register_forward_hook(
            lambda m, a, k, y: self.clinic.after(m, a, k, y, False), with_kwargs=True
        )
        self.number = 0

    def steps(self, number: int) -> None:
        for _ in range(number):
            x = torch.randn(16, 6)
            F.cross_entropy(self.model(x), (x[:, 0] > 0).long()).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.number += 1
            self.clock.now += 0.005
            self.clinic.step(self.number)

    def codes(self) -> set[str]:
        self.clinic.close()
        assert self.clinic.notes == []
        return {f.code for f in self.clinic.findings if f.severity != "info"}


def nothing(run: Training) -> None:
    run.steps(1)


def averaged(run: Training) -> None:
    run.model.eval()
    with torch.no_grad():
        run.model(torch.randn(16, 6))
    run.model.train()
    run.steps(1)


def measured(run: Training) -> None:
    gb.calibrate(run.model, [torch.randn(16, 6)])
    run.steps(1)


def two_networks(run: Training) -> None:
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with torch.no_grad():
        run.model(torch.randn(16, 6))
    other.step()
    run.steps(1)


@pytest.mark.parametrize("habit", [nothing, averaged, measured, two_networks])
def test_steps_that_were_not_seen_mislead_nobody(habit: Callable[[Training], None]) -> None:
    run = Training()
    for _ in range(60):
        habit(run)
        run.steps(2)
    assert FIRST <= run.clinic.observed < 150 < run.number
    assert run.codes() == set()


@pytest.mark.parametrize("grad", [False, True])
def test_an_evaluation_between_steps_that_are_not_observed(grad: bool) -> None:
    run = Training(cost=0.0001)
    run.steps(121)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            run.model(torch.randn(40, 6))
    run.steps(20)
    assert run.clinic.observed < 100
    assert run.codes() == {"GB302"}
    assert run.clinic.findings[0].step == 122


def test_a_fault_that_stays_is_found_later() -> None:
    run = Training(cost=0.0001)
    run.steps(101)
    run.model.eval()
    run.steps(150)
    assert run.clinic.observed < 150
    assert run.codes() == {"GB301"}


def test_a_loss_that_is_not_finite_is_looked_at() -> None:
    run = Training(cost=1.0)
    run.steps(100)
    before = run.clinic.observed
    run.clinic.numbers(100, {"loss": float("nan")})
    run.steps(3)
    assert (before, run.clinic.observed) == (FIRST, FIRST + 1)


@pytest.mark.parametrize("choice", [{}, {"every": 10}, {"budget": 0.5}])
def test_a_watch_gives_half_of_its_budget(choice: dict[str, Any], tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    with gb.watch(model, tmp_path / "r", doctor=True, **choice) as signal:
        loss: Tensor = model(torch.randn(4, 2)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        signal.step(loss=loss)
        clinic: Any = signal._attendant
        share = {"every": None, "budget": 0.25}.get(next(iter(choice), ""), 0.005)
        assert clinic.throttle.share == share
        assert 0 < clinic.spent <= signal._pace.spent + signal._pace.others
        assert signal.overhead > 0
