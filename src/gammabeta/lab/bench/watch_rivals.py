"""What a frame costs with others: the histograms of the same tensors by wandb and TensorBoard."""

from __future__ import annotations

import importlib
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.lab.bench.rivals import Absent

RIVALS = ("wandb.Histogram", "add_histogram")
"""Weights & Biases' histogram; that of TensorBoard's ``SummaryWriter``."""


def tensors_like(
    counts: Sequence[int], model: nn.Module, run: Callable[[], object]
) -> list[Tensor]:
    """Return one tensor for each of ``counts``, with as many values, from a pass of ``model``.

    They are outputs of the model's modules; for a count that no module's output has, the nearest
    larger output is cut, or values are drawn.

    Args:
        counts: numbers of values.
        model: whose modules' outputs are taken.
        run: runs the model once.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        >>> found = tensors_like([16, 16, 5], model, lambda: model(torch.zeros(2, 4)))
        >>> [tensor.numel() for tensor in found]
        [16, 16, 5]
    """
    outputs: dict[int, list[Tensor]] = {}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            outputs.setdefault(output.numel(), []).append(output.detach().clone())

    handles = [module.register_forward_hook(keep) for module in model.modules()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    found = []
    for place, count in enumerate(counts):
        if count in outputs:
            found.append(outputs[count][place % len(outputs[count])])
            continue
        larger = min((size for size in outputs if size > count), default=None)
        values = torch.randn(count) if larger is None else outputs[larger][0].flatten()[:count]
        found.append(values)
    return found


@contextmanager
def rival(who: str, tensors: Sequence[Tensor], folder: Path) -> Iterator[Callable[[], object]]:
    """Yield a call that makes the histograms of one frame.

    Args:
        who: of `RIVALS`.
        tensors: what is measured.
        folder: for files.

    Raises:
        Absent: its library is not installed.
    """
    if who == "wandb.Histogram":
        histogram = _library("wandb", "wandb").Histogram
        yield lambda: [histogram(tensor.numpy()) for tensor in tensors]
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library = _library("torch.utils.tensorboard", "tensorboard")
        writer = library.SummaryWriter(folder / "tensorboard")
    steps = itertools.count()

    def add() -> None:
        step = next(steps)
        for place, tensor in enumerate(tensors):
            writer.add_histogram(str(place), tensor, step)

    try:
        yield add
    finally:
        writer.close()


def _library(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise Absent(f"not installed: pip install {package}") from e
