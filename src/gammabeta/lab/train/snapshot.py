"""What a checkpoint holds of a run, and how it is restored."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.train.checkpoint import CheckpointError, brief
from gammabeta.lab.train.network import Trainable, check_data
from gammabeta.lab.train.plan import DEVICES, Plan, made
from gammabeta.lab.train.progress import Outcome
from gammabeta.lab.train.ranks import Ranks
from gammabeta.lab.train.recipes import Recipe
from gammabeta.lab.train.state import buffers_of, can_be_set, random_state
from gammabeta.names import known

Rebuild = Callable[[Mapping[str, Any]], Trainable]
"""Makes a recipe that is not one of the paper's from the fields in a checkpoint."""


@dataclass(frozen=True)
class Parts:
    """The parts of a run that change in training, except its position in the data.

    Attributes:
        model: the network.
        optimizer: the optimizer of its parameters.
        outcome: progress of the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    outcome: Outcome


def own(model: nn.Module, device: torch.device, position: Mapping[str, int]) -> dict[str, Any]:
    """Return the state that differs between ranks."""
    return {
        "buffers": buffers_of(model),
        "random": random_state(device),
        "position": dict(position),
    }


def whole(
    parts: Parts, plan: Plan, recipe: Trainable, data: Mapping[str, Any], ranks: list[Any]
) -> dict[str, Any]:
    """Return the content of a checkpoint; ``ranks`` holds the `own` state of each rank."""
    outcome = parts.outcome
    return {
        "plan": plan.as_dict(),
        "recipe": asdict(recipe),  # type: ignore[call-overload]
        "data": data,
        "step": outcome.step,
        "best": [outcome.best, outcome.best_step],
        "diverged": outcome.diverged,
        "model": parts.model.state_dict(),
        "optimizer": parts.optimizer.state_dict(),
        "ranks": ranks,
        "torch": str(torch.__version__),
    }


def made_by(path: Path, held: Mapping[str, Any], rebuild: Rebuild | None) -> tuple[Trainable, Plan]:
    """Return the recipe and the plan that the checkpoint at ``path`` holds.

    Raises:
        CheckpointError: this gammabeta does not know them, or what they were trained on.
    """
    try:
        check_data(held["data"])
    except ValueError as e:
        raise CheckpointError(f"{path}: data: {e}") from e
    try:
        recipe = (rebuild or _recipe)(held["recipe"])
        plan = Plan.from_dict(held["plan"])
        known("device", plan.device.partition(":")[0], DEVICES)
        return recipe, plan
    except (TypeError, ValueError, KeyError, AttributeError) as e:
        raise CheckpointError(
            f"{path} has a recipe or a plan that this gammabeta does not know ({e}); the version "
            "that wrote it reads it"
        ) from e


def _recipe(held: Mapping[str, Any]) -> Recipe:
    return made(Recipe, "recipe", held)


def check_alike(field: str, given: Any, ours: Any) -> None:
    """Raise unless ``given``, from a checkpoint, has the same structure as ``ours``.

    Dicts must have the same keys, lists the same length, tensors the same shape and type. Numbers
    may differ but must be finite.

    Args:
        field: its name in the checkpoint, for the message.
        given: the value in the checkpoint.
        ours: the value that this version of gammabeta makes.

    Raises:
        CheckpointError: the structure differs; the message names the innermost field.

    Example:
        >>> check_alike("group", {"momentum": 0.5}, {"momentum": 0.9})
        >>> check_alike("group", {"momentum": "x"}, {"momentum": 0.9})
        Traceback (most recent call last):
        ...
        gammabeta.lab.train.checkpoint.CheckpointError: group.momentum='x' must be a finite number
    """
    if isinstance(ours, dict):
        _must(field, given, isinstance(given, dict), "a dict")
        odd = sorted(map(str, given.keys() ^ ours.keys()))
        if odd:
            raise CheckpointError(f"{field} must have {brief(odd[0])} in both or in neither")
        for name, value in ours.items():
            check_alike(f"{field}.{name}", given[name], value)
    elif isinstance(ours, (list, tuple)):
        same = isinstance(given, (list, tuple)) and len(given) == len(ours)
        _must(field, given, same, f"a list of {len(ours)}")
        for number, value in enumerate(ours):
            check_alike(f"{field}[{number}]", given[number], value)
    elif isinstance(ours, Tensor):
        same = (
            isinstance(given, Tensor)
            and not given.is_meta
            and (given.shape, given.dtype, given.layout) == (ours.shape, ours.dtype, ours.layout)
        )
        _must(field, given, same, f"a tensor {tuple(ours.shape)} of {ours.dtype}")
    elif isinstance(ours, (int, float)) and not isinstance(ours, bool):
        number = isinstance(given, (int, float)) and not isinstance(given, bool)
        _must(field, given, number and abs(given) <= sys.float_info.max, "a finite number")
    else:
        _must(field, given, type(given) is type(ours), f"a {type(ours).__name__}")


def _must(field: str, given: Any, holds: bool, words: str) -> None:
    if not holds:
        shown = f"{tuple(given.shape)} {given.dtype}" if isinstance(given, Tensor) else brief(given)
        raise CheckpointError(f"{field}={shown} must be {words}")


def load_weights(model: nn.Module, held: Mapping[str, Any]) -> None:
    """Give ``model`` the weights and buffers of a checkpoint.

    Raises:
        CheckpointError: they belong to another network.
    """
    try:
        check_alike("model", held["model"], dict(model.state_dict()))
        model.load_state_dict(held["model"])
    except (CheckpointError, RuntimeError) as e:
        raise CheckpointError(
            f"the checkpoint after step {held['step']} has other weights than its recipe makes "
            f"here ({e}); the version of gammabeta that wrote it reads it"
        ) from e


def _load_optimizer(optimizer: torch.optim.Optimizer, held: Any) -> None:
    """Load the state of a checkpoint into ``optimizer``; torch itself validates little of it."""
    ours = [
        {name: value for name, value in group.items() if name not in ("params", "lr")}
        for group in optimizer.param_groups
    ]
    try:
        optimizer.load_state_dict(held)
    except Exception as e:  # what is no such state raises anything
        raise CheckpointError(f"optimizer does not match its recipe: {brief(str(e))}") from e
    for number, (group, own) in enumerate(zip(optimizer.param_groups, ours, strict=True)):
        known_ones = {name: value for name, value in group.items() if name in own}
        check_alike(f"optimizer.param_groups[{number}]", known_ones, own)
    groups = [(p, group) for group in optimizer.param_groups for p in group["params"]]
    places = {id(parameter): number for number, (parameter, _) in enumerate(groups)}
    for key, entries in optimizer.state.items():
        if id(key) not in places:
            raise CheckpointError(f"optimizer.state has {brief(key)}, which is not a parameter")
        field = f"optimizer.state[{places[id(key)]}]"
        _must(field, entries, isinstance(entries, dict), "a dict")
        if isinstance(optimizer, torch.optim.SGD) and groups[places[id(key)]][1]["momentum"]:
            buffer = entries.get("momentum_buffer")
            check_alike(f"{field}.momentum_buffer", buffer, key.detach())


def put_back(
    held: Mapping[str, Any], parts: Parts, ranks: Ranks
) -> tuple[dict[str, Any] | None, dict[str, int], str]:
    """Restore ``parts`` from a checkpoint.

    Returns:
        The random state (None if the number of ranks differs), the position in the data, and a
        note for the user (may be empty).

    Raises:
        CheckpointError: the content is invalid; the message names the field.
    """
    load_weights(parts.model, held)
    _load_optimizer(parts.optimizer, held["optimizer"])
    parts.outcome.step = held["step"]
    parts.outcome.best, parts.outcome.best_step = held["best"]
    each = held["ranks"]
    for number, own_of in enumerate(each):
        place = own_of.get("position")
        _must(f"ranks[{number}].position", place, _is_position(place), "a dict of whole numbers")
    if len(each) != ranks.count:  # the place in the data is the same for all of map-like data
        return (
            None,
            each[0]["position"],
            f"the checkpoint is of {len(each)} ranks, this run has {ranks.count}: the weights "
            "will not be those of the uninterrupted run",
        )
    mine = each[ranks.rank]
    field = f"ranks[{ranks.rank}]"
    check_alike(f"{field}.buffers", mine.get("buffers"), buffers_of(parts.model))
    random = mine.get("random")
    _must(f"{field}.random", random, can_be_set(random, ranks.device), "a random state")
    for name, buffer in parts.model.named_buffers():
        buffer.copy_(mine["buffers"][name])
    return random, mine["position"], ""


def _is_position(place: Any) -> bool:
    return isinstance(place, dict) and all(
        isinstance(name, str) and type(value) is int and 0 <= value < 2**63
        for name, value in place.items()
    )
