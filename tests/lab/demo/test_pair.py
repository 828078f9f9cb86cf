"""The pair: one difference between its arms, and every run of a seed the same."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gammabeta.lab.data.flat import Dataset, load
from gammabeta.lab.demo.pair import Pair
from gammabeta.lab.demo.presets import Settings, preset
from gammabeta.lab.models import Stack
from gammabeta.signal import Record, Run
from gammabeta.signal.run import Frame, Scalar
from tests.signal.recorded import same

DIGITS = load("digits")
SMALL = Settings(lr=0.1, init_scale=1.0, depth=2, width=16, batch_size=16, steps=12)


def trained(path: Path, settings: Settings, data: Dataset = DIGITS) -> Pair:
    with Record(path) as record:
        pair = Pair(settings, data, record)
        assert list(pair.train()) == list(range(1, settings.steps + 1))
    return pair


def recorded(path: Path) -> tuple[list[Frame], list[Scalar]]:
    with Run(path.with_suffix(".sqlite")) as run:
        return list(run.frames()), run.scalars()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_batch_norm_trains_where_the_plain_stack_does_not(tmp_path: Path, seed: int) -> None:
    """The claim of the demonstration. Ten classes: chance is 10 %."""
    settings = preset("bold-lr").settings.with_changes(seed=seed, steps=100)
    plain, steady = trained(tmp_path / "run", settings).arms
    assert steady.steps_to(0.95) is not None
    assert max(steady.accuracies.values()) >= 0.95
    assert steady.final_accuracy() >= 0.9  # at so bold a rate it wavers between 0.93 and 0.98
    late = [a for step, a in plain.accuracies.items() if step > 50]
    assert len(late) == 10
    assert max(late) < 0.3
    assert plain.diverged is None  # it did not blow up: it saturated and stands still
    frames, _ = recorded(tmp_path / "run")
    with Run(tmp_path / "run.sqlite") as run:
        first_layers = {p.arm: p.id for p in run.probes() if (p.layer, p.stage) == (4, "z")}
    last = {frame.arm: frame for frame in frames}
    at_the_end = {arm: last[arm].signals[probe] for arm, probe in first_layers.items()}
    assert at_the_end[0].std > 3 * at_the_end[1].std  # the plain signal has grown out of its zone


def test_the_arms_see_the_same_batches_with_the_same_weights(tmp_path: Path) -> None:
    trained(tmp_path / "run", SMALL)
    frames, _ = recorded(tmp_path / "run")
    with Run(tmp_path / "run.sqlite") as run:
        assert run.arms() == {0: "without", 1: "with batch norm"}
        z = {p.arm: p.id for p in run.probes() if (p.layer, p.stage) == (1, "z")}
    plain, steady = (
        replace(
            next(f for f in frames if f.arm == arm).signals[z[arm]],
            # Where z goes from here is where the arms differ.
            **dict.fromkeys(("gradient", "saturated", "dead")),
        )
        for arm in (0, 1)
    )
    assert same(plain, steady)  # the first layer's Wu + b at step 1: all that is shared is equal


def test_a_run_by_hand(tmp_path: Path) -> None:
    """Stack, mini-batches and optimizer put together here give the losses that were recorded."""
    pair = trained(tmp_path / "run", SMALL)
    _, scalars = recorded(tmp_path / "run")
    for number, (arm, norm) in enumerate(zip(pair.arms, ("none", "batch"), strict=True)):
        model = Stack(64, 10, depth=2, width=16, norm=norm, seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = torch.Generator().manual_seed(0)
        losses = []
        for _ in range(12):
            chosen = torch.randint(1437, (16,), generator=batches)
            loss = F.cross_entropy(model(DIGITS.train_x[chosen]), DIGITS.train_y[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert arm.losses == losses
        assert [s.value for s in scalars if s.arm == number and s.name == "loss"] == losses
        model.eval()
        with torch.no_grad():
            right = (model(DIGITS.test_x).argmax(1) == DIGITS.test_y).sum()
        assert arm.final_accuracy() == int(right) / 360
        measured = {s.step: s.value for s in scalars if s.arm == number and s.name == "accuracy"}
        assert measured == arm.accuracies
        assert list(measured) == [1, 5, 10, 12]


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "rms"])
def test_a_seed_gives_the_same_record(tmp_path: Path, norm: str) -> None:
    settings = SMALL.with_changes(norm=norm)
    for name, seed in (("a", 3), ("b", 3), ("other", 4)):
        torch.manual_seed(hash(name))  # whatever the global random state is
        before = torch.get_rng_state()
        trained(tmp_path / name, settings.with_changes(seed=seed))
        assert torch.equal(torch.get_rng_state(), before)
    (frames, scalars), (again, scalars_again), (other, other_scalars) = (
        recorded(tmp_path / name) for name in ("a", "b", "other")
    )
    assert len(frames) == 24
    assert scalars == scalars_again
    assert scalars != other_scalars
    for one, two, three in zip(frames, again, other, strict=True):
        assert (one.id, one.arm, one.step) == (two.id, two.arm, two.step)
        assert list(one.signals) == list(two.signals)
        assert all(same(one.signals[p], two.signals[p]) for p in one.signals)
        assert not any(same(one.signals[p], three.signals[p]) for p in one.signals)


def test_an_arm_that_diverges_stands_still_and_the_other_goes_on(tmp_path: Path) -> None:
    settings = SMALL.with_changes(activation="relu", lr=1e12, steps=20)
    with Record(tmp_path / "run") as record:
        pair = Pair(settings, DIGITS, record)
        plain, steady = pair.arms
        kept: dict[str, Tensor] = {}
        for _ in pair.train():
            if plain.diverged is not None and not kept:
                kept = {k: v.clone() for k, v in plain.model.state_dict().items()}
    assert plain.diverged is not None
    assert plain.diverged < 20
    assert len(plain.losses) == plain.diverged
    assert not math.isfinite(plain.losses[-1])
    assert all(math.isfinite(loss) for loss in plain.losses[:-1])
    now = plain.model.state_dict()
    assert all(torch.equal(now[k].nan_to_num(7), kept[k].nan_to_num(7)) for k in kept)
    assert len(steady.losses) == (steady.diverged or 20)
    _, scalars = recorded(tmp_path / "run")
    assert [s.step for s in scalars if s.arm == 0 and s.name == "loss"][-1] == plain.diverged


@pytest.mark.parametrize("how", ["closed", "interrupted"])
def test_a_run_stopped_midway_leaves_unwatched_models(tmp_path: Path, how: str) -> None:
    with Record(tmp_path / "run") as record:
        pair = Pair(SMALL, DIGITS, record)
        steps = pair.train()
        assert [next(steps), next(steps)] == [1, 2]
        if how == "closed":
            steps.close()
        else:
            with pytest.raises(KeyboardInterrupt):
                steps.throw(KeyboardInterrupt)
    for arm in pair.arms:
        for module in arm.model.modules():
            assert not module._forward_hooks
            assert not module._forward_pre_hooks
    assert len(recorded(tmp_path / "run")[0]) == 4


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.0}),
        ("momentum", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
        ("adam", torch.optim.Adam, {"lr": 0.1, "betas": (0.9, 0.999)}),
    ],
)
def test_optimizers(
    tmp_path: Path, name: str, kind: type[torch.optim.Optimizer], options: dict[str, object]
) -> None:
    for arm in trained(tmp_path / "run", SMALL.with_changes(optimizer=name, steps=1)).arms:
        assert type(arm.optimizer) is kind
        (group,) = arm.optimizer.param_groups
        assert {option: group[option] for option in options} == options
        assert {id(p) for p in group["params"]} == {id(p) for p in arm.model.parameters()}


def test_the_settings_reach_the_stacks(tmp_path: Path) -> None:
    settings = SMALL.with_changes(
        norm="group", activation="gelu", depth=3, width=24, init_scale=2.0, seed=5
    )
    with Record(tmp_path / "run") as record:
        arms = Pair(settings, DIGITS, record).arms
        for arm, norm in zip(arms, ("none", "group"), strict=True):
            expected = Stack(
                *(64, 10),
                depth=3,
                width=24,
                activation="gelu",
                norm=norm,
                init_scale=2.0,
                seed=5,
            )
            assert repr(arm.model) == repr(expected)
            state = expected.state_dict()
            assert all(torch.equal(v, state[k]) for k, v in arm.model.state_dict().items())
            arm.signal.close()
    assert [arm.name for arm in arms] == ["without", "with group norm"]


def test_accuracy_by_the_batchs_own_statistics_leaves_the_arm_as_it_was(tmp_path: Path) -> None:
    pair = trained(tmp_path / "run", SMALL)
    arm = pair.arms[1]
    state = {k: v.clone() for k, v in arm.model.state_dict().items()}
    measured = pair.evaluate_in_training_mode(arm)
    assert all(torch.equal(v, state[k]) for k, v in arm.model.state_dict().items())
    with torch.no_grad():  # last, as this does move the statistics
        expected = (arm.model.train()(DIGITS.test_x).argmax(1) == DIGITS.test_y).double().mean()
    assert measured == pytest.approx(float(expected))


def test_the_score_of_an_arm(tmp_path: Path) -> None:
    with Record(tmp_path / "run") as record:
        arm = Pair(SMALL, DIGITS, record).arms[0]
    assert math.isnan(arm.final_accuracy())
    assert arm.steps_to(0.5) is None
    arm.accuracies.update({1: 0.1, 5: 0.9, 10: 0.8, 15: 0.95})
    assert arm.final_accuracy() == 0.95
    assert (arm.steps_to(0.5), arm.steps_to(0.9), arm.steps_to(0.91)) == (5, 5, 15)
    assert arm.steps_to(0.96) is None
