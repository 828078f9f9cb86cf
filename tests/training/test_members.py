"""Checkpoints as an ensemble: which go together, and what they are calibrated on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import gammabeta as gb
from gammabeta.training import members
from gammabeta.training.images import load_images
from gammabeta.training.members import check, evaluate_members, load_member
from gammabeta.training.network import Standardize
from gammabeta.training.ranks import Ranks
from gammabeta.training.run import fit
from gammabeta.training.supply import feed_of
from tests.training.small import PLAN, Small, rebuild

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
    with pytest.raises(ValueError, match=f"with other {words} than .*takes the same images"):
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
