"""What the rules missed, or took for a fault, in trainings that were written without them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import gammabeta as gb
from gammabeta.doctor.rules.gb319_dead_layers import _saturated
from gammabeta.doctor.training.course import Look, Weight
from gammabeta.doctor.training.throttle import FIRST, Throttle


class Run:
    """A training of a small classifier, as a person writes it."""

    def __init__(self, path: Path, model: nn.Module, *, few: bool = False) -> None:
        torch.manual_seed(0)
        self.model = model
        self.path = path / "run"
        self.few = few
        self.optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.05)
        self.signal: Any = None

    def __enter__(self) -> Run:
        self.signal = gb.watch(self.model, self.path, doctor=True)
        self.signal.__enter__()
        if self.few:  # observe only the first steps
            self.signal._attendant.throttle = Throttle(0.5, lambda: 1.0, _Slow())
        return self

    def __exit__(self, *error: Any) -> None:
        self.signal.__exit__(*error)

    def steps(
        self, number: int, batch: Callable[[int], Tensor] | None = None, after: Any = None
    ) -> None:
        for i in range(number):
            x = torch.randn(16, 6) if batch is None else batch(i)
            self.step(F.cross_entropy(self.model(x), (torch.nan_to_num(x)[:, 0] > 0).long()))
            if after is not None:
                after()
            self.signal.step(loss=self.loss)

    def step(self, loss: Tensor) -> None:
        self.loss = loss
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def found(self) -> dict[str, Any]:
        assert self.signal._attendant.notes == []
        return {f.code: f for f in self.signal.findings if f.severity != "info"}


class _Slow:
    """A clock on which everything that the clinic does takes a second."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def net(norm: Callable[[int], nn.Module] = nn.BatchNorm1d, drop: float = 0.0) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), norm(8), nn.ReLU(), nn.Dropout(drop), nn.Linear(8, 2)
    ).train()


def test_a_metric_in_eval_mode_after_each_step_freezes_nothing(tmp_path: Path) -> None:
    model = net()

    def metric() -> None:
        model.eval()
        with torch.no_grad():
            model(torch.randn(16, 6))

    with Run(tmp_path, model) as run:
        for _ in range(4):
            model.train()
            run.steps(1, after=metric)
    assert run.found() == {}


class Frozen(nn.Module):
    """Features without gradients, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.features = net()
        self.head = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.features(x)
        return self.head(x)  # type: ignore[no-any-return]


def test_gradients_of_an_earlier_training_are_no_gradients(tmp_path: Path) -> None:
    model = Frozen()
    model.features(torch.randn(16, 6)).sum().backward()
    with Run(tmp_path, model) as run:
        run.optimizer = torch.optim.SGD(model.head.parameters(), 0.05)
        run.steps(8)
    assert run.found()["GB303"].layers == ("features.1",)


@pytest.mark.parametrize("each_step", [False, True])
def test_a_part_that_is_called_alone_before_the_first_step(each_step: bool, tmp_path: Path) -> None:
    model = net()
    with Run(tmp_path, model) as run:
        model[:2](torch.zeros(2, 6))
        for _ in range(3):
            run.steps(1)
            if each_step:  # a habit is no dummy
                model[:2](torch.zeros(2, 6))
    assert ("GB306" in run.found()) is not each_step


class Agent(nn.Module):
    """A network and its target network."""

    def __init__(self) -> None:
        super().__init__()
        self.online = net()
        self.target = copy.deepcopy(self.online).eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.online(x)  # type: ignore[no-any-return]

    @torch.no_grad()
    def follow(self, buffers: bool) -> None:
        for a, b in zip(self.target.parameters(), self.online.parameters(), strict=True):
            a.lerp_(b, 0.1)
        for a, b in zip(self.target.buffers(), self.online.buffers(), strict=True):
            a.copy_(b if buffers else a)


@pytest.mark.parametrize("buffers", [False, True])
def test_a_target_network_inside_the_model(buffers: bool, tmp_path: Path) -> None:
    agent = Agent()
    with Run(tmp_path, agent) as run:
        run.optimizer = torch.optim.SGD(agent.online.parameters(), 0.05)
        run.steps(6, after=lambda: agent.follow(buffers))
    found = run.found()
    assert set(found) == (set() if buffers else {"GB308"})
    assert buffers or found["GB308"].layers[:3] == ("target", "online.1", "target.1")


def test_a_module_of_the_same_class_and_shapes_without_statistics(tmp_path: Path) -> None:
    other = net(nn.LayerNorm)
    with Run(tmp_path, net()) as run:
        run.steps(2)
    assert run.found() == {}
    assert len(other) == 5


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LayerNorm])
def test_a_batch_with_nan_in_a_step_that_is_not_observed(
    norm: Callable[[int], nn.Module], tmp_path: Path
) -> None:
    def batch(i: int) -> Tensor:
        return torch.full((16, 6), math.nan if i == FIRST + 20 else 1.0) + torch.randn(16, 6)

    with Run(tmp_path, net(norm), few=True) as run:
        run.steps(FIRST + 30, batch)
    assert run.signal._attendant.observed < FIRST + 20
    found = run.found()
    assert set(found) == {"GB311"}
    assert (found["GB311"].step, found["GB311"].severity) == (FIRST + 21, "error")
    assert "weights" in found["GB311"].cause


def test_a_loss_with_nan_in_a_step_that_is_not_observed(tmp_path: Path) -> None:
    with Run(tmp_path, net(), few=True) as run:
        run.steps(FIRST + 20)
        run.model(torch.randn(16, 6))
        run.signal.step(loss=math.nan)  # as the mean of no elements; its gradient is 0
        run.steps(5)
    found = run.found()
    assert set(found) == {"GB316"}
    assert (found["GB316"].step, found["GB316"].layer) == (FIRST + 21, "")


def test_statistics_that_a_batch_that_was_skipped_has_spoiled(tmp_path: Path) -> None:
    with Run(tmp_path, net(), few=True) as run:
        run.steps(FIRST + 20)
        run.model(torch.full((16, 6), math.nan))  # its loss is not finite: no step
        run.steps(5)
    assert run.found()["GB311"].layers == ("", "1")


@pytest.mark.parametrize("each_step", [False, True])
def test_dropout_in_a_validation(each_step: bool, tmp_path: Path) -> None:
    model = net(nn.LayerNorm, 0.2)
    with Run(tmp_path, model) as run:
        for _ in range(12):
            with torch.no_grad():
                if each_step or run.signal.steps in (5, 10):  # in each step it may act, or sample
                    model(torch.randn(40, 6))
            run.steps(1)
    found = run.found()
    assert set(found) == (set() if each_step else {"GB302"})
    assert each_step or found["GB302"].cause.endswith("dropout is on")


def test_a_log_in_each_step_is_no_validation_besides(tmp_path: Path) -> None:
    model = net()
    with Run(tmp_path, model, few=True) as run:
        for i in range(3 * FIRST):
            x = torch.randn(16, 6)
            run.step(F.cross_entropy(model(x), (x[:, 0] > 0).long()))
            if i % 10 == 9:
                model(x)
            run.signal.step(loss=run.loss)
    assert set(run.found()) == {"GB304"}


def test_an_average_that_is_evaluated_through_its_module(tmp_path: Path) -> None:
    model = net()
    average = AveragedModel(model)
    with Run(tmp_path, model) as run:
        for _ in range(3):
            run.steps(2)
            average.update_parameters(model)
        average.module.eval()
    assert set(run.found()) == {"GB309"}


def test_a_weight_that_begins_at_zero_says_nothing_of_updates() -> None:
    first = {"body": Weight(1.0, 0.0, 0.0), "head": Weight(0.1, 2.0, 1.0)}
    assert math.isnan(Look(1, {}, {"head": first["head"]}).update)
    assert Look(1, {}, first).update == 0.0
    assert Look(1, {}, {"head": Weight(5.0, 2.0, 0.9)}).update == 0.9


@pytest.mark.parametrize(
    ("saturated", "dead", "expected"), [(0.99, 0.9, True), (0.9, 0.96, True), (0.9, 0.9, False)]
)
def test_nearly_all_outputs_are_saturated(saturated: float, dead: float, expected: bool) -> None:
    row = {"maximum": 1.0, "minimum": -1.0, "std": 0.9, "zeros": 0.0, "sampled": 512.0}
    rows = {("0", "activation"): {**row, "saturated": saturated, "dead": dead}}
    assert _saturated(rows, "0") is expected
    rows["0", "activation"]["minimum"] = 0.9  # a gate that is open
    assert _saturated(rows, "0") is False


def test_a_dead_layer_is_named_with_its_activation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, 2))
    with torch.no_grad():
        model[0].weight.mul_(800)
    with Run(tmp_path, model) as run:
        run.steps(12)
    assert run.found()["GB319"].layers == ("0", "1")
