"""How many predictions are correct. Every accuracy of the laboratory is counted here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn

Batches = Iterable[tuple[Tensor, Tensor]]
"""Pairs of inputs and class indices (N,)."""


def correct(scores: Tensor, y: Tensor) -> Tensor:
    """Count the predictions that are correct: the largest score is that of the right class.

    Args:
        scores: (…, N, classes).
        y: (N,) class indices.

    Returns:
        (…) int64: one count for each network that the scores are of.

    Example:
        >>> int(correct(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1])))
        1
    """
    return (scores.argmax(-1) == y).sum(-1)


@torch.no_grad()
def count_correct(model: Callable[[Tensor], Tensor], batches: Batches) -> tuple[Tensor, int]:
    """Count the correct predictions over ``batches``; a module runs in the mode that it is in.

    Returns:
        The number of correct predictions, see `correct`, and of examples.
    """
    right, seen = torch.zeros((), dtype=torch.int64), 0
    for x, y in batches:
        right = right + correct(model(x), y)
        seen += len(y)
    return right, seen


def accuracy(model: nn.Module, batches: Batches) -> float:
    """Return the fraction of correct predictions over ``batches``, in evaluation mode."""
    with evaluating(model):
        right, seen = count_correct(model, batches)
    return int(right) / seen


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put ``model`` into evaluation mode; afterwards every module is in its own mode again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        model.train(modes[0][1])
        for module, training in modes:
            module.training = training


def split(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and targets in batches of ``size``; the last one may be smaller."""
    return zip(torch.split(x, size), torch.split(y, size), strict=True)
