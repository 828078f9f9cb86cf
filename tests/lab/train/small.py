"""A recipe that takes a millisecond a step and uses everything that has a state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta import BatchNorm1d
from gammabeta.lab.train.plan import Plan


@dataclass(frozen=True)
class Small:
    """One hidden layer: batch norm has running averages, dropout draws, momentum remembers."""

    name: str = "small"
    batch_size: int = 32
    shuffle_within_shards: bool = True
    weak_distortions: bool = False
    lr: float = 0.05
    dropout: float = 0.2

    def model(self, classes: int, **shape: Any) -> nn.Module:
        features = shape["in_channels"] * shape["input_size"] ** 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(shape["seed"])
            return nn.Sequential(
                nn.Flatten(),
                nn.Linear(features, 48),
                BatchNorm1d(48, activation="relu"),
                nn.Dropout(self.dropout),
                nn.Linear(48, classes),
            )

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.SGD(model.parameters(), lr=self.lr, momentum=0.9, weight_decay=1e-4)

    def learning_rate(self, step: int) -> float:
        return self.lr * 0.99**step


def rebuild(held: Mapping[str, Any]) -> Small:
    return Small(**held)


PLAN = Plan(steps=60, evaluate_every=20, checkpoint_every=20, log_every=20)


def last(folder: Path, step: int) -> dict[str, Any]:
    """The checkpoint after ``step``, read by torch alone."""
    held: dict[str, Any] = torch.load(folder / f"step-{step:08d}.pt", weights_only=True)
    return held


def same(a: Any, b: Any) -> bool:
    """Whether two trees of dicts, lists, tensors and numbers are equal, bit by bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def state(held: dict[str, Any]) -> list[Any]:
    """What decides how a run goes on."""
    return [held[name] for name in ("step", "model", "optimizer", "ranks")]
