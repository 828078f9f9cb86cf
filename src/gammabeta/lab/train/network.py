"""Build the network of a recipe, for training, resuming and evaluation."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from gammabeta.conversion import revert
from gammabeta.lab.data import Images
from gammabeta.lab.models.inception import LARGEST
from gammabeta.lab.train.checkpoint import brief
from gammabeta.lab.train.plan import Plan


class Trainable(Protocol):
    """Protocol of a recipe; a frozen dataclass, so that a checkpoint can store it."""

    @property
    def name(self) -> str:
        """Name of the recipe."""

    @property
    def batch_size(self) -> int:
        """Examples per step of each process."""

    @property
    def shuffle_within_shards(self) -> bool:
        """Whether examples are shuffled within their shard."""

    @property
    def weak_distortions(self) -> bool:
        """Whether photometric distortions are the weaker ones."""

    def model(
        self,
        classes: int,
        *,
        input_size: int,
        width: float,
        stem: str | None,
        channels: str,
        in_channels: int,
        seed: int,
    ) -> nn.Module:
        """Return the network, (N, in_channels, input_size, input_size) → (N, classes)."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Return an optimizer of the network's parameters."""

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step (from 0)."""


def describe(images: Images) -> dict[str, Any]:
    """Return the properties of the data that a network needs, as stored in checkpoints."""
    return {
        "name": images.name,
        "classes": list(images.classes),
        "channels": images.channels,
        "size": images.size,
        "mean": list(images.mean),
        "std": list(images.std),
        "fingerprint": images.fingerprint,
    }


def check_data(data: Mapping[str, Any]) -> None:
    """Raise unless ``data`` is a valid result of `describe`.

    Raises:
        ValueError: an entry is missing or invalid.
    """
    channels = data.get("channels")
    checks: tuple[tuple[str, str, Callable[[Any], bool]], ...] = (
        ("name", "text", lambda v: isinstance(v, str)),
        ("classes", "a list of names", _are_names),
        ("channels", "between 1 and 4096", lambda v: type(v) is int and 1 <= v <= 4096),
        ("size", f"between 1 and {LARGEST}", lambda v: type(v) is int and 1 <= v <= LARGEST),
        ("mean", "a number for each channel", lambda v: _are_above(-math.inf, v, channels)),
        ("std", "a positive number for each channel", lambda v: _are_above(0.0, v, channels)),
        ("fingerprint", "a whole number", lambda v: type(v) is int),
    )
    for name, needed, holds in checks:
        if not holds(data.get(name)):
            raise ValueError(f"{name}={brief(data.get(name))} must be {needed}")


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, str) for v in value)


def _are_above(least: float, values: Any, count: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and least < v <= sys.float_info.max for v in values)
    )


def build(recipe: Trainable, plan: Plan, data: Mapping[str, Any]) -> nn.Module:
    """Return the untrained network of ``recipe`` for ``data``, see `describe`."""
    model = recipe.model(
        len(data["classes"]),
        input_size=data["size"],
        width=plan.width,
        stem=None if plan.stem == "auto" else plan.stem,
        channels=plan.channels,
        in_channels=data["channels"],
        seed=plan.seed,
    )
    if plan.sync_bn:
        # torch's SyncBatchNorm takes torch's layers, and no activation with them.
        model = revert(model, fused="split")
    if plan.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


class Standardize:
    """Turns bytes into network input: x ← (x/255 − mean) / std, for each channel.

    Args:
        data: see `describe`.
        device: device of the result.
        channels_last: memory layout of the result.
    """

    def __init__(self, data: Mapping[str, Any], device: torch.device, channels_last: bool) -> None:
        def channel(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=device).view(1, -1, 1, 1)

        self._mean, self._std = channel(data["mean"]) * 255, channel(data["std"]) * 255
        self._format = torch.channels_last if channels_last else torch.contiguous_format
        self._device = device

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) uint8 → float32."""
        moved = x.to(self._device, non_blocking=True).to(torch.float32, memory_format=self._format)
        return moved.sub_(self._mean).div_(self._std)
