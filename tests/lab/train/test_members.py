"""Checkpoints as an ensemble: which go together, and what they are calibrated on."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import gammabeta as gb
from gammabeta.lab.data import load_images
from gammabeta.lab.train import checkpoint, members
from gammabeta.lab.train.checkpoint import CheckpointError
from gammabeta.lab.train.members import check, evaluate_members, load_member
from gammabeta.lab.train.network import Standardize
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.ranks import Ranks
from gammabeta.lab.train.recipes import recipe
from gammabeta.lab.train.run import fit, resume
from gammabeta.lab.train.supply import feed_of
from tests.lab.train.small import PLAN, Small, rebuild

DIGITS = load_images("digits")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[members.Member]:
    folder = tmp_path_factory.mktemp("members")
    for seed in (0, 1):
        fit(Small(), replace(PLAN, steps=20, seed=seed), folder / str(seed))
    return [load_member(folder / str(seed), rebuild=rebuild) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("other", "words"),
    [({"fingerprint": 7}, "files"), ({"name": "folder"}, "data"), ({"size": 9}, "size")],
)
def test_members_of_other_images_are_refused(
    other: dict[str, object], words: str, trained: list[members.Member]
) -> None:
    """The one might be tested on what the other was trained on."""
    stranger = replace(trained[1], data={**trained[1].data, **other})
    check(trained, DIGITS)
    with pytest.raises(ValueError, match=f"with other {words} than .*need the same images"):
        check([trained[0], stranger], DIGITS)


def test_each_is_calibrated_on_mini_batches_of_its_own(trained: list[members.Member]) -> None:
    """As large as those it was trained on: its error does not depend on its companions."""
    large = replace(trained[1], recipe=replace(trained[1].recipe, batch_size=200))  # type: ignore[type-var]
    both = [trained[0], large]
    found = evaluate_members(both, DIGITS, statistics="population", batches=5)
    ready = Standardize(large.data, torch.device("cpu"), False)
    assert isinstance(DIGITS.test, members.Arrays)
    for member, errors in zip(both, found.members, strict=True):
        feed = feed_of(member.recipe, member.plan, DIGITS, Ranks(0, 1, torch.device("cpu")))
        batches = [ready(batch.x) for batch, _ in zip(feed.batches({}), range(5), strict=False)]
        gb.calibrate(member.model, batches, progress=False)
        right = member.model.eval()(ready(DIGITS.test.images)).argmax(1) == DIGITS.test.labels
        assert errors.top1_error == pytest.approx(1 - float(right.double().mean()))


# Sealed checkpoints that hold something wrong: whole files, as far as their checksum goes.

BIG = 10**400
TENSOR = torch.ones(2)
NESTED: list[Any] = []
for _ in range(150):  # deeper ones cannot be saved
    NESTED = [NESTED]
KINDS: list[Any] = [None, "x", -1, math.nan, BIG, True, [], {}, {"a": 1}, TENSOR, NESTED]

FIELDS: dict[tuple[Any, ...], list[Any]] = {
    **{(name,): KINDS for name in ("plan", "recipe", "data", "model", "ranks", "step", "best")},
    ("optimizer",): [*KINDS, {"state": {}, "param_groups": []}],
    ("diverged",): [value for value in KINDS if value is not None],
    **{("plan", name): KINDS for name in ("steps", "seed", "width", "shard", "keep")},
    ("plan", "precision"): KINDS,
    ("plan", "stem"): KINDS,
    ("plan", "channels"): KINDS,
    ("plan", "device"): KINDS,
    ("plan", "watch"): [value for value in KINDS if value is not True],
    **{
        ("recipe", name): KINDS
        for name in (
            "batch_size",
            "base_lr",
            "momentum",
            "norm",
            "init",
            "init_scale",
            "decay_rate",
        )
    },
    ("recipe", "name"): [value for value in KINDS if value != "x"],
    ("recipe", "no_dropout"): [value for value in KINDS if value is not True],
    **{("data", name): KINDS for name in ("classes", "channels", "size", "mean", "std")},
    ("data", "classes", 0): [value for value in KINDS if value != "x"],
    ("data", "mean"): [*KINDS, [math.inf]],
    ("data", "std"): [*KINDS, [0.0], ["x"]],
    ("data", "name"): [value for value in KINDS if value != "x"],
    ("best", 0): [None, "x", True, [], TENSOR],
    ("best", 1): KINDS,
    ("model", 0): [*KINDS, torch.ones(3, 3, dtype=torch.complex64)],
    ("optimizer", "state"): [value for value in KINDS if value != {}],
    ("optimizer", "state", 0): KINDS,
    ("optimizer", "state", 0, "momentum_buffer"): KINDS,
    ("optimizer", "param_groups"): KINDS,
    ("optimizer", "param_groups", 0): KINDS,
    ("optimizer", "param_groups", 0, "params"): KINDS,
    ("optimizer", "param_groups", 0, "momentum"): [None, "x", math.nan, BIG, True, [], TENSOR],
    ("optimizer", "param_groups", 0, "nesterov"): [None, "x", -1, math.nan, [], TENSOR],
    ("ranks", 0): KINDS,
    ("ranks", 0, "buffers"): KINDS,
    ("ranks", 0, "random"): KINDS,
    ("ranks", 0, "random", "torch"): KINDS,
    ("ranks", 0, "random", "python"): KINDS,
    ("ranks", 0, "random", "python", 2): ["x", BIG, [], TENSOR],
    ("ranks", 0, "random", "numpy", 2): [None, "x", -1, 10**6, BIG, []],
    ("ranks", 0, "position"): [value for value in KINDS if value not in ({}, {"a": 1})],
    ("ranks", 0, "position", "taken"): KINDS,
}
"""Place in a checkpoint → values that it must not have. A number stands for the so-manieth key."""


def with_value(held: Any, place: tuple[Any, ...], value: Any) -> Any:
    """``held`` with ``value`` at ``place``, the rest of it as it is."""
    if not place:
        return value
    made = held.copy()
    key = place[0]
    if isinstance(held, dict) and key not in held:
        key = list(held)[key]
    made[key] = with_value(held[key], place[1:], value)
    return made


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a checkpoint of the paper's network holds, after two steps."""
    folder = tmp_path_factory.mktemp("held")
    fit(recipe("bn-x5"), Plan(steps=2, width=0.0625, evaluate_every=0), folder)
    return checkpoint.read(checkpoint.path_of(folder, 2))


def refused(path: Path, name: str, read: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(CheckpointError) as caught:
        read(*args, **options)
    said = str(caught.value)
    assert str(path) in said
    assert name in said
    assert "\n" not in said
    assert len(said) < 1000


def chosen(place: tuple[Any, ...]) -> list[Any]:
    """Four of the wrong values, beginning at another one for each place: reading takes 0.1 s."""
    values = FIELDS[place]
    first = list(FIELDS).index(place)
    return [values[(first + i) % len(values)] for i in range(min(4, len(values)))]


@pytest.mark.parametrize("place", FIELDS, ids=lambda place: ".".join(map(str, place)))
def test_a_sealed_checkpoint_with_a_wrong_value(
    place: tuple[Any, ...], held: dict[str, Any], tmp_path: Path
) -> None:
    path = checkpoint.path_of(tmp_path, 2)
    name = next(str(part) for part in reversed(place) if isinstance(part, str))
    if place[0] == "optimizer" and len(place) > 1:
        name = "optimizer"  # torch does not name what in it is wrong
    if place[0] == "ranks" and len(place) > 1:
        name = "random" if "random" in place else name
    for value in chosen(place):
        checkpoint.write(path, with_value(held, place, value))
        refused(path, name, resume, path, steps=3)
        if place[0] not in ("optimizer", "ranks"):
            refused(path, name, load_member, path)
    assert sorted(p.name for p in tmp_path.iterdir()) in ([path.name], ["lock", path.name])


@pytest.mark.parametrize("name", ["plan", "recipe", "data", "best", "diverged", "optimizer"])
def test_a_sealed_checkpoint_that_lacks_a_field(
    name: str, held: dict[str, Any], tmp_path: Path
) -> None:
    path = checkpoint.path_of(tmp_path, 2)
    checkpoint.write(path, {k: v for k, v in held.items() if k != name})
    refused(path, name, resume, path, steps=3)
    refused(path, name, load_member, path)


@pytest.mark.parametrize("which", ["plan", "recipe", "data", "model"])
def test_a_sealed_checkpoint_that_lacks_an_entry(
    which: str, held: dict[str, Any], tmp_path: Path
) -> None:
    path = checkpoint.path_of(tmp_path, 2)
    last = list(held[which])[-1]
    checkpoint.write(path, {**held, which: {k: v for k, v in held[which].items() if k != last}})
    refused(path, last, load_member, path)
    refused(path, last if which != "data" else "", resume, path, steps=3)


def test_the_states_are_left_alone_when_a_checkpoint_is_refused(
    held: dict[str, Any], tmp_path: Path
) -> None:
    path = checkpoint.path_of(tmp_path, 2)
    state = {**held["ranks"][0]["random"], "torch": TENSOR}
    checkpoint.write(path, with_value(held, ("ranks", 0, "random"), state))
    before = (random.getstate(), torch.get_rng_state().tolist())
    refused(path, "random", resume, path, steps=3)
    assert (random.getstate(), torch.get_rng_state().tolist()) == before


@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_a_checkpoint_that_is_no_file(kind: str, tmp_path: Path) -> None:
    path = checkpoint.path_of(tmp_path, 2)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    for read, place in ((load_member, path), (load_member, tmp_path), (resume, tmp_path)):
        with pytest.raises(
            CheckpointError, match=r"0002(\.pt)?\S* (cannot be read|is no folder|has no)"
        ):
            read(place)  # type: ignore[operator]


def test_no_members_at_all() -> None:
    with pytest.raises(ValueError, match="members is empty; give at least one"):
        evaluate_members([], DIGITS)
