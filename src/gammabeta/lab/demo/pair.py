"""Train two stacks with the same weights and mini-batches, without and with a norm."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gammabeta.lab.data.flat import Dataset
from gammabeta.lab.demo.presets import Settings
from gammabeta.lab.models.stack import Stack
from gammabeta.lab.train.accuracy import accuracy, count_correct, split
from gammabeta.lab.train.step import quiet_layers, take_step
from gammabeta.signal import Cadence, Record, Watch, watch

EVALUATE_EVERY = 5
"""Steps between two measurements of the test accuracy."""


@dataclass
class Arm:
    """One of the two networks and its results.

    Attributes:
        name: ``"without"``, or ``"with batch norm"`` and the like.
        accuracies: step → test accuracy in evaluation mode.
        diverged: the step whose loss was not finite; the arm takes no steps after it.
    """

    name: str
    model: Stack
    optimizer: torch.optim.Optimizer
    signal: Watch
    accuracies: dict[int, float] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    diverged: int | None = None

    def steps_to(self, accuracy: float) -> int | None:
        """Return the first measured step whose test accuracy is at least ``accuracy``."""
        return next((s for s, a in self.accuracies.items() if a >= accuracy), None)

    def final_accuracy(self) -> float:
        """Return the last measured test accuracy; NaN if none was."""
        return list(self.accuracies.values())[-1] if self.accuracies else math.nan


class Pair:
    """Two arms, recorded as they train.

    Args:
        settings: the networks and their training.
        data: training and test images.
        record: receives the signals of both arms.
    """

    def __init__(self, settings: Settings, data: Dataset, record: Record) -> None:
        self.settings = settings
        self.data = data
        self.record = record
        self._batches = torch.Generator().manual_seed(settings.seed)
        cadence = Cadence(last=settings.steps)
        self.arms: list[Arm] = []
        for name, norm in (("without", "none"), (f"with {settings.norm} norm", settings.norm)):
            model = Stack(
                data.train_x.shape[1],
                data.classes,
                depth=settings.depth,
                width=settings.width,
                activation=settings.activation,
                norm=norm,
                init_scale=settings.init_scale,
                seed=settings.seed,
                momentum=settings.momentum,
            )
            signal = watch(model, record, arm=name, cadence=cadence, modules="layers.*")
            self.arms.append(Arm(name, model, _optimizer(model, settings), signal))

    def train(self) -> Iterator[int]:
        """Take all steps; yield the number of each after both arms have taken it."""
        size = len(self.data.train_x)
        try:
            for step in range(1, self.settings.steps + 1):
                chosen = torch.randint(size, (self.settings.batch_size,), generator=self._batches)
                x, y = self.data.train_x[chosen], self.data.train_y[chosen]
                for arm in self.arms:
                    if arm.diverged is None:
                        self._step(arm, step, x, y)
                yield step
        finally:
            for arm in self.arms:
                arm.signal.close()

    def _step(self, arm: Arm, step: int, x: Tensor, y: Tensor) -> None:
        with quiet_layers():
            loss, _ = take_step(arm.model, arm.optimizer, x, y)
        scalars = {}
        if step % EVALUATE_EVERY == 0 or step in (1, self.settings.steps):
            scalars["accuracy"] = arm.accuracies[step] = accuracy(arm.model, self._test())
        arm.losses.append(loss.item())
        arm.signal.step(loss=loss, **scalars)
        if not math.isfinite(arm.losses[-1]):
            arm.diverged = step

    def evaluate_in_training_mode(self, arm: Arm) -> float:
        """Return the test accuracy of ``arm`` normalizing by the test mini-batches themselves.

        A copy is used, because layers in training mode update their running statistics.
        """
        right, seen = count_correct(copy.deepcopy(arm.model).train(), self._test())
        return int(right) / seen

    def _test(self) -> Iterator[tuple[Tensor, Tensor]]:
        return split(self.data.test_x, self.data.test_y, 2048)


def _optimizer(model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(model.parameters(), lr=settings.lr)
    momentum = 0.9 if settings.optimizer == "momentum" else 0.0
    return torch.optim.SGD(model.parameters(), lr=settings.lr, momentum=momentum)
