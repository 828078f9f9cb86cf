"""Train one network on images in memory, for the claims that need more than a stack."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.training import BATCH_SIZE, CHUNK, SUBSET, milestones, subset
from gammabeta.lab.data.flat import Dataset
from gammabeta.lab.train.accuracy import accuracy, correct, split
from gammabeta.lab.train.step import quiet_layers, take_step
from gammabeta.signal import Cadence, Record, Watch, watch

LAST_SHARE = 0.1
"""Fraction of the steps, at the end, over which the training accuracy is averaged."""


@dataclass
class Fit:
    """The result of one run.

    Attributes:
        losses: loss of every mini-batch, before its step.
        hits: accuracy on every mini-batch, in training mode.
        accuracies: step → accuracy on `subset` of the test images, in evaluation mode.
        final: accuracy on all test images at the end.
        diverged: the step whose loss was not finite; the run ended there.
    """

    losses: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)
    final: float = math.nan
    diverged: int | None = None

    @property
    def training_accuracy(self) -> float:
        """Mean accuracy on the last tenth of the mini-batches; on the last one if it diverged."""
        if self.diverged is not None:
            return self.hits[-1]
        last = self.hits[-max(1, round(LAST_SHARE * len(self.hits))) :]
        return math.fsum(last) / len(last)

    def kept(self) -> dict[str, Any]:
        """Return what `Context.run` should cache."""
        return {
            "accuracies": [[step, reached] for step, reached in self.accuracies.items()],
            "training_accuracy": self.training_accuracy,
            "final": self.final,
            "diverged": self.diverged,
        }


def batches(
    data: Dataset, size: int, steps: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step (from 1), images and labels, drawn at random; the same for every arm."""
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        chosen = torch.randint(len(data.train_y), (size,), generator=generator)
        yield step, data.train_x[chosen], data.train_y[chosen]


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    *,
    steps: int,
    batch_size: int,
    seed: int,
    evaluate_at: Iterable[int] = (),
    before: Callable[[int, Tensor, Tensor], None] | None = None,
    after: Callable[[int], None] | None = None,
    clip: float | None = None,
    signal: Watch | None = None,
    context: Context | None = None,
) -> Fit:
    """Train ``model`` by cross-entropy; its parameters and buffers change, and it stays in train().

    Args:
        model: (N, features) → (N, classes).
        optimizer: the optimizer of its parameters.
        data: training and test images.
        steps: number of optimizer steps.
        batch_size: examples per mini-batch.
        seed: random seed for the mini-batches.
        evaluate_at: steps after which to measure the test accuracy; always after the last one.
        before: called before each step with its number, images and labels.
        after: called after each step with its number.
        clip: largest allowed norm of the gradient; None for no limit.
        signal: a watch to report every step to.
        context: where to report the progress.
    """
    found, due = Fit(), {*evaluate_at, steps}
    model.train()
    for step, x, y in batches(data, batch_size, steps, seed):
        if before is not None:
            before(step, x, y)
        with quiet_layers():
            loss, scores = take_step(model, optimizer, x, y, clip=clip, skip_nonfinite=True)
        found.losses.append(loss.item())
        found.hits.append((correct(scores, y) / len(y)).item())
        if not math.isfinite(found.losses[-1]):
            found.diverged = step
            found.accuracies[step] = found.final = 1 / data.classes
            if signal is not None:
                signal.step(loss=loss)
            break
        if step in due:
            found.accuracies[step] = held_out_accuracy(model, data, SUBSET)
        if signal is not None:
            measured = {"accuracy": found.accuracies[step]} if step in due else {}
            signal.step(loss=loss, **measured)
        if after is not None:
            after(step)
        if context is not None and step % 20 == 0:
            context.progress.within(step / steps)
    if found.diverged is None:
        found.final = held_out_accuracy(model, data)
    return found


def held_out_accuracy(model: nn.Module, data: Dataset, count: int | None = None) -> float:
    """Return the accuracy on all test images, or on ``count`` of them, see `subset`."""
    x, y = (data.test_x, data.test_y) if count is None else subset(data, count)
    with quiet_layers():
        return accuracy(model, split(x, y, CHUNK))


def side_of(data: Dataset) -> tuple[int, int]:
    """Return the side of the images in pixels, and the pooling factor: 2 for large images."""
    side = math.isqrt(data.train_x.shape[1])
    return side, 2 if side >= 28 else 1


def spaced(steps: int, count: int = 20) -> list[int]:
    """Return ``count`` logarithmically spaced steps from 1 to ``steps``."""
    ratio = steps ** (1 / max(1, count - 1))
    return sorted({max(1, round(ratio**k)) for k in range(count)} | {steps})


@contextlib.contextmanager
def recorded(
    context: Context, name: str, model: nn.Module, seed: int, steps: int, wanted: bool = True
) -> Iterator[Watch | None]:
    """Record the run of the first seed as ``name`` if ``wanted``; otherwise yield None."""
    if not wanted or seed != context.seeds[0]:
        yield None
        return
    with (
        Record(context.record(name), name, {"seed": seed, "steps": steps}) as record,
        watch(model, record, arm=name, cadence=_cadence(steps)) as signal,
    ):
        yield signal


def follow(
    arms: Mapping[str, tuple[nn.Module, float]],
    data: Dataset,
    record: Path,
    title: str,
    *,
    steps: int,
    seed: int,
) -> None:
    """Train one network after the other with plain SGD and record their signals for the view.

    Args:
        arms: name → network and learning rate.
        data: training and test images.
        record: path of the record, see `Context.record`.
        title: title of the record.
        steps: number of steps of each network.
        seed: random seed for the mini-batches.
    """
    rates = {name: rate for name, (_, rate) in arms.items()}
    with Record(record, title, {"lr": rates, "steps": steps, "seed": seed}) as kept:
        for name, (model, rate) in arms.items():
            optimizer = torch.optim.SGD(model.parameters(), lr=rate)
            with watch(model, kept, arm=name, cadence=_cadence(steps)) as signal:
                fit(
                    model,
                    optimizer,
                    data,
                    steps=steps,
                    batch_size=BATCH_SIZE,
                    seed=seed,
                    evaluate_at=milestones(steps, ratio=1.2),
                    signal=signal,
                )


def _cadence(steps: int) -> Cadence:
    """Few frames: the records of claims are for viewing only."""
    return Cadence(early=10, ratio=1.1, last=steps)
