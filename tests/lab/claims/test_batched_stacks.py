"""A crowd's members are the stacks they were made of, alone and while they train."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.claims.framework.training import accuracies, milestones, subset, train
from gammabeta.lab.data.flat import Dataset, load
from gammabeta.lab.models.stack import Stack
from gammabeta.lab.train.accuracy import accuracy
from gammabeta.statistics import calibrate

RATES = [0.05, 0.2, 1.0]


def stacks(norm: str, activation: str = "sigmoid", depth: int = 3) -> list[Stack]:
    return [
        Stack(
            64, 10, depth=depth, width=12, activation=activation, norm=norm,
            init_scale=scale, seed=seed,
        )
        for scale, seed in ((1.0, 0), (0.5, 0), (2.0, 7))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits")


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("activation", ["sigmoid", "relu", "tanh"])
@pytest.mark.parametrize("own", [False, True])
def test_members_train_as_they_would_alone(
    digits: Dataset, norm: str, activation: str, own: bool
) -> None:
    """30 steps of torch's SGD on each stack by itself, with the same mini-batches, in float64:
    at a rate of 1 a difference of roundings grows a hundredfold in ten steps."""
    digits = replace(digits, train_x=digits.train_x.double(), test_x=digits.test_x.double())
    crowd = Crowd(stacks(norm, activation)).double()
    result = train(crowd, digits, RATES, steps=30, seed=3, own_batches=own)
    assert result["steps"] == milestones(30)
    output = crowd.eval()(digits.test_x)
    for index, (stack, rate) in enumerate(zip(stacks(norm, activation), RATES, strict=True)):
        stack.double()
        optimizer = torch.optim.SGD(stack.parameters(), lr=rate)
        generator = torch.Generator().manual_seed(3)
        for _ in range(30):
            chosen = torch.randint(1437, (3, 60) if own else (60,), generator=generator)
            chosen = chosen[index] if own else chosen
            loss = F.cross_entropy(stack(digits.train_x[chosen]), digits.train_y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.testing.assert_close(output[index], stack.eval()(digits.test_x), atol=1e-6, rtol=0)
        alone = accuracy(stack, [(digits.test_x, digits.test_y)])
        assert result["members"][index]["final"] == pytest.approx(alone, abs=1e-5)


def test_calibrated_accuracies_are_those_with_population_statistics(digits: Dataset) -> None:
    """What trains is the same; the moving averages, still young, are replaced before each test."""
    results, crowds = [], []
    for calibrated in (False, True):
        crowd = Crowd(stacks("batch"))
        result = train(crowd, digits, RATES, steps=12, seed=3, measure=[12], calibrated=calibrated)
        results.append([member["accuracy"][-1] for member in result["members"]])
        crowds.append(crowd)
    moving, population = crowds
    for one, other in zip(moving.parameters(), population.parameters(), strict=True):
        assert torch.equal(one, other)
    generator = torch.Generator().manual_seed(3)
    chosen = torch.randint(1437, (8, 60), generator=generator)
    calibrate(moving, [digits.train_x[batch] for batch in chosen])
    for one, other in zip(moving.buffers(), population.buffers(), strict=True):
        assert torch.equal(one, other)
    expected = accuracies(moving, *subset(digits))
    assert results[1] == pytest.approx(expected, abs=1e-5)
    assert results[0] != pytest.approx(expected, abs=1e-2)
    plain = Crowd(stacks("none"))  # nothing to calibrate
    train(plain, digits, RATES, steps=2, seed=0, calibrated=True)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_a_member_that_diverges_disturbs_nobody(digits: Dataset, norm: str) -> None:
    calm = train(Crowd(stacks(norm)[:2]), digits, [0.1, 0.1], steps=20, seed=0)
    both = Crowd(stacks(norm)[:2])
    with torch.no_grad():
        both.weights[0][0, 1, 0] = math.nan
    result = train(both, digits, [0.1, 0.1], steps=20, seed=0)
    mine, its = result["members"][0], calm["members"][0]
    assert mine["accuracy"] == its["accuracy"]
    # A kernel may take a vector of channels again for the one that is not finite.
    assert mine["loss"] == pytest.approx(its["loss"], abs=1e-5)
    assert result["members"][1]["diverged"] == 10
    assert calm["members"][1]["diverged"] is None


def test_the_same_seed_is_the_same_run_and_another_is_not(digits: Dataset) -> None:
    state = torch.get_rng_state()
    runs = [
        train(Crowd(stacks("batch"), [0.0, 0.2, 0.5], seed=seed), digits, RATES, steps=12, seed=5)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert runs[0] == runs[1]
    assert runs[0]["members"][0] == runs[2]["members"][0]  # no dropout: its seed is not read
    assert runs[0]["members"][1]["loss"] != runs[2]["members"][1]["loss"]


def test_dropout_drops_as_many_as_it_says_and_keeps_the_mean() -> None:
    crowd = Crowd(stacks("none", depth=1), [0.0, 0.25, 0.5])
    ones = torch.ones(4000, 3 * 12)
    dropped = crowd._dropped(ones).view(4000, 3, 12)
    # 48,000 draws: a standard error of 0.002 at most.
    zeros = (dropped == 0).float().mean((0, 2))
    torch.testing.assert_close(zeros, torch.tensor([0.0, 0.25, 0.5]), atol=0.01, rtol=0)
    torch.testing.assert_close(dropped.mean((0, 2)), torch.ones(3), atol=0.02, rtol=0)


def test_affine_only_moves_nothing_but_gamma_and_beta(digits: Dataset) -> None:
    crowd = Crowd(stacks("batch"))
    before = {name: value.clone() for name, value in crowd.named_parameters()}
    crowd.affine_only()
    train(crowd, digits, RATES, steps=3, seed=0)
    moved = {n for n, value in crowd.named_parameters() if not torch.equal(value, before[n])}
    assert moved == {f"norms.{k}.{name}" for k in range(3) for name in ("weight", "bias")}


def test_stacks_that_do_not_go_together_are_refused(digits: Dataset) -> None:
    with pytest.raises(
        ValueError, match=r"stacks are of 2 shapes; give one or more, all of the same"
    ):
        Crowd([Stack(8, 3, depth=1), Stack(8, 3, depth=2)])
    with pytest.raises(ValueError, match=r"norm of the stacks is LayerNorm; need batch or none"):
        Crowd([Stack(8, 3, norm="layer")])
    with pytest.raises(ValueError, match=r"rates=\[0.1\] must hold 3 rates, one for each member"):
        train(Crowd(stacks("none")), digits, [0.1], steps=1, seed=0)


def test_the_subset_is_always_the_same(digits: Dataset) -> None:
    first, again = subset(digits, 50), subset(digits, 50)
    assert torch.equal(first[0], again[0])
    assert len(first[1]) == 50
