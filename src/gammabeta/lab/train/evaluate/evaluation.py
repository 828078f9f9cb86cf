"""The result of an evaluation: counts of wrong predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

TOP = 5


@dataclass
class Errors:
    """A running count of wrong predictions.

    Attributes:
        n: examples seen.
        top1_wrong: examples whose most probable class is not the label.
        top5_wrong: examples whose label is not among the five most probable classes.
        nonfinite: examples with NaN or infinite probabilities; wrong in both counts.
        log_loss: sum of −log p of the right class, in nats.

    Example:
        >>> import torch
        >>> errors = Errors()
        >>> errors.add(torch.tensor([[0.7, 0.2, 0.1], [0.3, 0.1, 0.6]]), torch.tensor([0, 1]))
        >>> errors.top1_error, errors.top5_error
        (0.5, 0.0)
    """

    n: int = 0
    top1_wrong: int = 0
    top5_wrong: int = 0
    nonfinite: int = 0
    log_loss: float = 0.0

    def add(self, probabilities: Tensor, labels: Tensor) -> None:
        """Count a batch.

        Args:
            probabilities: (N, classes), float64.
            labels: (N,), class indices.

        Raises:
            ValueError: a label is no class of the model's, or the numbers of rows differ.
        """
        rows, classes = probabilities.shape
        if labels.shape != (rows,):
            raise ValueError(f"labels have shape {tuple(labels.shape)}; need ({rows},)")
        if rows and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            worst = int(labels.max()) if int(labels.max()) >= classes else int(labels.min())
            raise ValueError(f"label {worst} is not a class of the model, 0 to {classes - 1}")
        finite = probabilities.isfinite().all(1)
        best = probabilities.nan_to_num(0.0).topk(min(TOP, classes), 1).indices
        hits = (best == labels[:, None]) & finite[:, None]
        self.n += rows
        self.top1_wrong += rows - int(hits[:, 0].sum())
        self.top5_wrong += rows - int(hits.any(1).sum())
        self.nonfinite += rows - int(finite.sum())
        self.log_loss -= float(probabilities.gather(1, labels[:, None]).double().log().sum())

    @property
    def top1_error(self) -> float:
        """Fraction of examples whose most probable class is not the label; NaN without examples."""
        return self.top1_wrong / self.n if self.n else math.nan

    @property
    def top5_error(self) -> float:
        """Fraction of examples whose label is not among the five most probable; NaN without any."""
        return self.top5_wrong / self.n if self.n else math.nan

    @property
    def loss(self) -> float:
        """Cross-entropy: mean of −log p of the label, in nats; NaN without examples."""
        return self.log_loss / self.n if self.n else math.nan


@dataclass(frozen=True)
class Evaluation:
    """The errors of a model, or of several whose probabilities are averaged.

    Attributes:
        errors: of the mean of all members' probabilities.
        members: of each model alone; one model is its only member.
        crops: 1 or 144, of each image.
        statistics: ``"moving"`` or ``"population"``.
    """

    errors: Errors
    members: tuple[Errors, ...] = field(default=())
    crops: int = 1
    statistics: str = "moving"

    @property
    def n(self) -> int:
        """Examples."""
        return self.errors.n

    @property
    def top1_error(self) -> float:
        """As `Errors.top1_error`."""
        return self.errors.top1_error

    @property
    def top5_error(self) -> float:
        """As `Errors.top5_error`."""
        return self.errors.top5_error

    @property
    def accuracy(self) -> float:
        """1 − `top1_error`."""
        return 1.0 - self.top1_error

    @property
    def loss(self) -> float:
        """As `Errors.loss`."""
        return self.errors.loss

    def __str__(self) -> str:
        who = "1 model" if len(self.members) == 1 else f"mean of {len(self.members)} models"
        what = "1 crop" if self.crops == 1 else f"{self.crops} crops"
        lines = [
            f"{_line(self.errors)}  ({self.n:,} images, {who}, {what}, {self.statistics} "
            "statistics)"
        ]
        if len(self.members) > 1:
            lines += [f"  model {k}: {_line(member)}" for k, member in enumerate(self.members, 1)]
        return "\n".join(lines)


def _line(errors: Errors) -> str:
    text = f"top-1 error {errors.top1_error:.2%}, top-5 error {errors.top5_error:.2%}"
    return f"{text}, {errors.nonfinite:,} not finite" if errors.nonfinite else text
