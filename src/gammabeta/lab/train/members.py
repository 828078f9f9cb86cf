"""Trained networks from checkpoints, for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.data import Arrays, Feed, Images
from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.checkpoint import CheckpointError
from gammabeta.lab.train.evaluate import Evaluation, evaluate
from gammabeta.lab.train.network import Standardize, Trainable, build
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.ranks import Ranks
from gammabeta.lab.train.snapshot import Rebuild, load_weights, made_by
from gammabeta.lab.train.supply import feed_of, held_out, whole_pictures

CALIBRATION = 100
"""Mini-batches over which population statistics are taken: 3,200 examples at the usual 32."""

_TOGETHER = 32
"""Whole pictures that are evaluated at once."""


@dataclass(frozen=True)
class Member:
    """A trained network.

    Attributes:
        path: path of its checkpoint.
        model: the network with its weights.
        recipe, plan: its training settings.
        data: its training data, see `gammabeta.lab.train.network.describe`.
        step: number of steps it was trained for.
    """

    path: Path
    model: nn.Module
    recipe: Trainable
    plan: Plan
    data: Mapping[str, Any]
    step: int


def load_member(
    place: str | Path,
    *,
    device: torch.device | None = None,
    rebuild: Rebuild | None = None,
) -> Member:
    """Return the network of a checkpoint.

    Args:
        place: a checkpoint, or a run's folder: then its best one, or the newest if none was
            measured.
        device: device of the network.
        rebuild: makes a recipe that is not one of the paper's from the checkpoint.

    Raises:
        CheckpointError: it is missing, damaged or somebody else's, or holds something wrong.
    """
    path = place = Path(place)
    if place.is_dir() or place.suffix != checkpoint.SUFFIX:
        best = place / checkpoint.BEST
        path = best if best.exists() else checkpoint.newest(place)
    held = checkpoint.read(path)
    recipe, plan = made_by(path, held, rebuild)
    with checkpoint.naming(path):
        try:
            model = build(recipe, plan, held["data"])
        except ValueError as e:
            raise CheckpointError(f"its network cannot be built: {e}") from e
        load_weights(model, held)
    if device is not None:
        model.to(device)
    return Member(path, model, recipe, plan, held["data"], held["step"])


def check(members: Sequence[Member], images: Images) -> None:
    """Raise if ``members`` do not match each other or ``images``.

    Raises:
        ValueError: they were trained on images of another kind, or for other classes.
    """
    first = members[0]
    for member in members:
        for what in ("classes", "channels", "size", "mean", "std", "name", "fingerprint"):
            if member.data[what] != first.data[what]:
                words = {"name": "data", "fingerprint": "files"}.get(what, what)
                raise ValueError(
                    f"{member.path} was trained with other {words} than {first.path}; the members "
                    "of an ensemble need the same images"
                )
    if (
        len(images.classes) != len(first.data["classes"])
        or images.channels != first.data["channels"]
    ):
        raise ValueError(
            f"data={images.name!r} has {len(images.classes)} classes and {images.channels} "
            f"channels; {first.path} was trained for {len(first.data['classes'])} and "
            f"{first.data['channels']}"
        )
    theirs, ours = first.data["classes"], images.classes
    other = next((i for i, name in enumerate(theirs) if name != ours[i]), None)
    if other is not None:
        raise ValueError(
            f"data={images.name!r} has other classes than {first.path} was trained for: class "
            f"{other} is {ours[other]!r}, not {theirs[other]!r}"
        )


def evaluate_members(
    members: Sequence[Member],
    images: Images,
    *,
    crops: int = 1,
    statistics: str = "moving",
    batches: int = CALIBRATION,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Return the errors of checkpoints' networks on the test split, and of their mean.

    Args:
        members: at least one; all trained on the same classes, channels and size.
        images: the data; its test split is measured, its training split calibrates.
        crops: 1 or 144.
        statistics: ``"moving"``, or ``"population"`` for Algorithm 2.
        batches: training mini-batches for ``"population"``, of each member those that it was
            trained on.
        progress: called with the number of images done so far.

    Raises:
        ValueError: there are no members, or they do not match each other or the data.
    """
    if not members:
        raise ValueError("members is empty; give at least one")
    check(members, images)
    first = members[0]
    device = next(first.model.parameters()).device
    ready = Standardize(first.data, device, first.plan.channels_last)

    def told() -> Iterator[tuple[Any, Tensor]]:
        done = 0
        for x, y in _shown(images, crops, ready):
            yield x, y
            done += len(y)
            if progress is not None:
                progress(done)

    calibration = None
    if statistics == "population":
        alone = Ranks(0, 1, device)
        feeds = {id(m.model): feed_of(m.recipe, m.plan, images, alone) for m in members}

        def calibration(model: nn.Module) -> _Batches:
            return _Batches(feeds[id(model)], ready, batches)

    return evaluate(
        [member.model for member in members],
        told(),
        crops=crops,
        statistics=statistics,
        calibration=calibration,
        input_size=int(first.data["size"]),
    )


@dataclass(frozen=True)
class _Batches:
    """The first ``count`` mini-batches, made again in each pass: they may not fit into memory."""

    feed: Feed
    ready: Standardize
    count: int

    def __iter__(self) -> Iterator[Tensor]:
        return (self.ready(batch.x) for batch in islice(self.feed.batches({}), self.count))


def _shown(images: Images, crops: int, ready: Standardize) -> Iterator[tuple[Any, Tensor]]:
    """The test split; whole pictures for many crops."""
    if crops == 1 or isinstance(images.test, Arrays):
        for x, y in held_out(images, None):
            yield ready(x), y
        return
    pictures = ((ready(picture[None])[0], label) for picture, label in whole_pictures(images))
    while chosen := list(islice(pictures, _TOGETHER)):
        yield [picture for picture, _ in chosen], torch.tensor([label for _, label in chosen])
