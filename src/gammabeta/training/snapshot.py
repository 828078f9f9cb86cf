"""What a checkpoint holds of a run, and how it is put back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gammabeta.training.checkpoint import CheckpointError
from gammabeta.training.network import Trainable
from gammabeta.training.plan import Plan
from gammabeta.training.progress import Outcome
from gammabeta.training.ranks import Ranks
from gammabeta.training.recipes import Recipe
from gammabeta.training.state import buffers_of, random_state

Rebuild = Callable[[Mapping[str, Any]], Trainable]
"""Makes a recipe of what a checkpoint holds of it, where it is none of the paper's."""


@dataclass(frozen=True)
class Parts:
    """What of a run changes while it trains, but for its place in the data.

    Attributes:
        model: the network.
        optimizer: of its parameters.
        outcome: how far it is.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    outcome: Outcome


def own(model: nn.Module, device: torch.device, position: Mapping[str, int]) -> dict[str, Any]:
    """Return what each rank has of its own."""
    return {
        "buffers": buffers_of(model),
        "random": random_state(device),
        "position": dict(position),
    }


def whole(
    parts: Parts, plan: Plan, recipe: Trainable, data: Mapping[str, Any], ranks: list[Any]
) -> dict[str, Any]:
    """Return what a checkpoint holds; ``ranks`` is what each rank has of its `own`."""
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
        CheckpointError: this gammabeta does not know them.
    """
    try:
        recipe = rebuild(held["recipe"]) if rebuild else Recipe(**held["recipe"])
        return recipe, Plan.from_dict(held["plan"])
    except (TypeError, ValueError) as e:
        raise CheckpointError(
            f"{path} has a recipe or a plan that this gammabeta does not know ({e}); the version "
            "that wrote it reads it"
        ) from e


def load_weights(model: nn.Module, held: Mapping[str, Any]) -> None:
    """Give ``model`` the weights and buffers of a checkpoint.

    Raises:
        CheckpointError: they are another network's.
    """
    try:
        model.load_state_dict(held["model"])
    except RuntimeError as e:
        raise CheckpointError(
            f"the checkpoint after step {held['step']} has other weights than its recipe makes "
            "here; the version of gammabeta that wrote it reads it"
        ) from e


def put_back(
    held: Mapping[str, Any], parts: Parts, ranks: Ranks
) -> tuple[dict[str, Any] | None, dict[str, int], str]:
    """Set ``parts`` to what a checkpoint holds.

    Returns:
        The random state (None where the number of ranks is another), the place in the data, and
        what a person should know (empty for nothing).
    """
    load_weights(parts.model, held)
    parts.optimizer.load_state_dict(held["optimizer"])
    parts.outcome.step = held["step"]
    parts.outcome.best, parts.outcome.best_step = held["best"]
    each = held["ranks"]
    if len(each) != ranks.count:  # the place in the data is the same for all of map-like data
        return (
            None,
            each[0]["position"],
            f"the checkpoint is of {len(each)} ranks, this run has {ranks.count}: the weights "
            "will not be those of the uninterrupted run",
        )
    mine = each[ranks.rank]
    for name, buffer in parts.model.named_buffers():
        buffer.copy_(mine["buffers"][name])
    return mine["random"], mine["position"], ""
