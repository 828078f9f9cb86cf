"""Train one network on images in memory, for the claims that need more than a stack."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.training import BATCH_SIZE, SUBSET, milestones, scores, subset
from gammabeta.lab.data.flat import Dataset
from gammabeta.layers import NonFiniteBatchWarning
from gammabeta.signal import Cadence, Record, Watch, watch

LAST_SHARE = 0.1
"""Of the steps: those at the end over which the training accuracy is averaged."""


@dataclass
class Fit:
    """What one run left.

    Attributes:
        losses: of every mini-batch, before its step.
        hits: fraction of every mini-batch that was right, in training mode.
        accuracies: step → accuracy on `subset` of the test images, in evaluation mode.
        final: that on all test images, at the end.
        diverged: the step whose loss was not finite; the run ended there.
    """

    losses: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    accuracies: dict[int, float] = field(default_factory=dict)
    final: float = math.nan
    diverged: int | None = None

    @property
    def training_accuracy(self) -> float:
        """The mean over the last tenth of the mini-batches; that of the last one if it diverged."""
        if self.diverged is not None:
            return self.hits[-1]
        last = self.hits[-max(1, round(LAST_SHARE * len(self.hits))) :]
        return math.fsum(last) / len(last)

    def kept(self) -> dict[str, Any]:
        """What `Context.run` is to keep of it."""
        return {
            "accuracies": [[step, reached] for step, reached in self.accuracies.items()],
            "training_accuracy": self.training_accuracy,
            "final": self.final,
            "diverged": self.diverged,
        }


def batches(
    data: Dataset, size: int, steps: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield step (the first is 1), images and labels: drawn at random, the same for every arm."""
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
    clip: float | None = None,
    signal: Watch | None = None,
    context: Context | None = None,
) -> Fit:
    """Train ``model`` by cross-entropy; its parameters and buffers change, and it stays in train().

    Args:
        model: (N, features) → (N, classes).
        optimizer: of its parameters.
        data: what to train and test on.
        steps: optimizer steps.
        batch_size: examples a mini-batch.
        seed: of the mini-batches.
        evaluate_at: steps after which to test; the last one is always.
        before: called before each step with its number, images and labels.
        clip: largest norm of the gradient; None for any.
        signal: a watch that is told of every step.
        context: whose progress is told.
    """
    found, due = Fit(), {*evaluate_at, steps}
    model.train()
    for step, x, y in batches(data, batch_size, steps, seed):
        if before is not None:
            before(step, x, y)
        with warnings.catch_warnings():
            # A run that diverges is reported by its result, not by its layers.
            warnings.simplefilter("ignore", NonFiniteBatchWarning)
            scores = model(x)
            loss = F.cross_entropy(scores, y)
        found.losses.append(loss.item())
        found.hits.append((scores.argmax(1) == y).float().mean().item())
        if not math.isfinite(found.losses[-1]):
            found.diverged = step
            found.accuracies[step] = found.final = 1 / data.classes
            if signal is not None:
                signal.step(loss=loss)
            break
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        if step in due:
            found.accuracies[step] = accuracy(model, data, SUBSET)
        if signal is not None:
            measured = {"accuracy": found.accuracies[step]} if step in due else {}
            signal.step(loss=loss, **measured)
        if context is not None and step % 20 == 0:
            context.progress.within(step / steps)
    if found.diverged is None:
        found.final = accuracy(model, data)
    return found


def accuracy(model: nn.Module, data: Dataset, count: int | None = None) -> float:
    """Return the fraction right of all test images, or of `subset`, in eval()."""
    x, y = (data.test_x, data.test_y) if count is None else subset(data, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NonFiniteBatchWarning)
        return float((scores(model, x).argmax(-1) == y).double().mean())


def side_of(data: Dataset) -> tuple[int, int]:
    """Return the images' side in pixels, and by how much to average them: large ones by 2."""
    side = math.isqrt(data.train_x.shape[1])
    return side, 2 if side >= 28 else 1


def spaced(steps: int, count: int = 20) -> list[int]:
    """Return ``count`` steps from 1 to ``steps``, denser at the beginning."""
    ratio = steps ** (1 / max(1, count - 1))
    return sorted({max(1, round(ratio**k)) for k in range(count)} | {steps})


@contextlib.contextmanager
def recorded(
    context: Context, name: str, model: nn.Module, seed: int, steps: int, wanted: bool = True
) -> Iterator[Watch | None]:
    """Record the first seed's run as ``name`` for the view, if ``wanted``; otherwise give None."""
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
    """Train one network after the other by plain SGD and record their signals, to be looked at.

    Args:
        arms: name → network and learning rate.
        data: what they are trained and tested on.
        record: the file, see `Context.record`.
        title: of the run.
        steps: of each.
        seed: of the mini-batches.
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
    """Few frames: a record of a claim is looked at, not computed with."""
    return Cadence(early=10, ratio=1.1, last=steps)
