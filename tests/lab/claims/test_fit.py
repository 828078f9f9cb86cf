from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.fit import (
    Fit,
    batches,
    fit,
    held_out_accuracy,
    recorded,
    side_of,
    spaced,
)
from gammabeta.lab.claims.noisy_bn import CLAIM
from gammabeta.lab.data.flat import load
from gammabeta.lab.models import Stack
from gammabeta.signal import Run

DIGITS = load("digits")


def trained(seed: int = 0, lr: float = 0.5, steps: int = 30) -> tuple[Fit, Stack]:
    model = Stack(64, 10, depth=2, width=32, seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    found = fit(
        model, optimizer, DIGITS, steps=steps, batch_size=64, seed=seed, evaluate_at=(5, 10)
    )
    return found, model


def test_it_learns_and_is_bit_reproducible() -> None:
    state = torch.get_rng_state()
    one, model = trained()
    again, twin = trained()
    other, _ = trained(seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert one == again
    assert one != other
    assert all(map(torch.equal, model.parameters(), twin.parameters()))
    assert list(one.accuracies) == [5, 10, 30]
    assert one.final > 0.85
    assert one.final == held_out_accuracy(model, DIGITS)
    assert model.training


def test_a_run_that_diverges_ends_there() -> None:
    model = Stack(64, 10, depth=2, width=32, activation="relu", norm="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=1e20)
    found = fit(model, optimizer, DIGITS, steps=30, batch_size=64, seed=0)
    assert found.diverged is not None
    assert found.diverged < 30
    assert len(found.losses) == found.diverged
    assert found.final == 0.1
    assert found.kept()["diverged"] == found.diverged


def test_training_accuracy_is_that_of_the_last_tenth() -> None:
    assert Fit(hits=[0.0] * 18 + [0.4, 0.6]).training_accuracy == 0.5


def test_a_curve_is_of_the_same_images_all_along() -> None:
    many = replace(DIGITS, test_x=DIGITS.test_x.repeat(6, 1), test_y=DIGITS.test_y.repeat(6))
    model = nn.Linear(64, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    found = fit(model, optimizer, many, steps=4, batch_size=8, seed=0, evaluate_at=(2,))
    assert found.accuracies[2] == found.accuracies[4] == held_out_accuracy(model, many, 2000)
    assert found.accuracies[4] != found.final == held_out_accuracy(model, many)


def test_batches_are_the_same_for_every_arm() -> None:
    one, two = (list(batches(DIGITS, 8, 3, seed)) for seed in (4, 4))
    assert [step for step, _, _ in one] == [1, 2, 3]
    assert all(
        torch.equal(a[1], b[1]) and torch.equal(a[2], b[2]) for a, b in zip(one, two, strict=True)
    )
    assert not torch.equal(one[0][1], next(batches(DIGITS, 8, 3, 5))[1])


def test_what_comes_before_a_step_sees_its_batch_before_it() -> None:
    seen: list[tuple[int, Tensor, Tensor]] = []
    model = nn.Linear(64, 10)
    start = model.weight.detach().clone()

    def look(step: int, x: Tensor, y: Tensor) -> None:
        seen.append((step, x, model.weight.detach().clone()))

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    fit(model, optimizer, DIGITS, steps=2, batch_size=8, seed=0, before=look)
    assert [step for step, _, _ in seen] == [1, 2]
    assert torch.equal(seen[0][2], start)
    assert not torch.equal(seen[1][2], start)
    assert torch.equal(seen[0][1], next(batches(DIGITS, 8, 2, 0))[1])


def test_accuracy_is_of_evaluation_mode_and_gives_the_mode_back() -> None:
    model = nn.Sequential(nn.BatchNorm1d(64), nn.Linear(64, 10))
    held_out_accuracy(model, DIGITS, 100)
    assert model.training
    assert int(model[0].num_batches_tracked) == 0
    right = (model.eval()(DIGITS.test_x).argmax(1) == DIGITS.test_y).sum() / 360
    assert held_out_accuracy(model, DIGITS) == pytest.approx(float(right))
    assert not model.training


def test_the_first_seed_is_recorded_for_the_view(tmp_path: Path) -> None:
    context = Context(tmp_path, data="digits").of(CLAIM)
    model = Stack(64, 10, depth=2, width=8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with recorded(context, "an arm", model, 0, 12) as signal:
        fit(model, optimizer, DIGITS, steps=12, batch_size=8, seed=0, signal=signal)
    with Run(context.folder / "runs/noisy-bn/an arm.sqlite") as run:
        assert list(run.arms().values()) == ["an arm"]
    with recorded(context, "an arm", model, 1, 12) as signal:
        assert signal is None


def test_spaced_and_side() -> None:
    assert spaced(100, 5) == [1, 3, 10, 32, 100]
    assert spaced(1) == [1]
    assert side_of(DIGITS) == (8, 1)
