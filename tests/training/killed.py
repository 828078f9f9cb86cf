"""A run in a process of its own, to be killed: ``killed.py FOLDER begin|resume KEY=VALUE…``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gammabeta import BatchNorm1d
from gammabeta.training.plan import Plan
from gammabeta.training.run import fit, resume


@dataclass(frozen=True)
class Small:
    """A recipe that takes a millisecond a step and uses everything that has a state."""

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


def small(held: Mapping[str, Any]) -> Small:
    return Small(**held)


def main(folder: str, verb: str, *settings: str) -> None:
    torch.set_num_threads(1)
    changes: dict[str, Any] = {k: int(v) for k, v in (s.split("=") for s in settings)}
    if verb == "begin":
        fit(Small(), Plan(**changes), Path(folder))
    else:
        resume(Path(folder), rebuild=small, **changes)


if __name__ == "__main__":
    main(*sys.argv[1:])
