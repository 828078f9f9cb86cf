"""Measure what layers are called with, while a model runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.statistics.moments import Moments, moments


@contextmanager
def measuring(
    layers: Mapping[str, nn.Module], measured: list[tuple[str, Moments]]
) -> Iterator[None]:
    """Append to ``measured`` a name and moments for each mini-batch that one of ``layers`` gets.

    A layer called twice in a forward pass gives two entries. What activation checkpointing
    computes again in a backward pass gives none.

    Example:
        >>> import torch
        >>> layer, measured = nn.BatchNorm1d(1), []
        >>> with measuring({"bn": layer}, measured):
        ...     y = layer(torch.tensor([[1.0], [3.0]]))
        >>> [(name, moments.mean.item(), moments.var.item()) for name, moments in measured]
        [('bn', 2.0, 1.0)]
    """

    def measure(name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch._C._current_graph_task_id() != -1:
                return  # inside a backward pass: checkpointing computes what was measured again
            for x in _mini_batches(layer, args, kwargs):
                if isinstance(x, Tensor) and x.dim() >= 2 and x.numel():
                    measured.append((name, moments(x)))

        return hook

    handles = []
    try:
        for name, layer in layers.items():
            # The last pre-hook sees the input as the layer does.
            handle = layer.register_forward_pre_hook(measure(name), with_kwargs=True)
            handles.append(handle)
        with warnings.catch_warnings():
            # Reentrant checkpointing warns that nothing requires a gradient; nothing should.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True")
            yield
    finally:
        for handle in handles:
            handle.remove()


def _mini_batches(
    layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Iterable[object]:
    """What a layer called with ``args`` and ``kwargs`` normalizes together: its input, mostly.

    A layer that cuts its input, or leaves values out of it, says what it normalizes in a method
    ``mini_batches``, called as ``forward`` is, that returns tensors (N, C) or (N, C, ...).
    """
    own = getattr(layer, "mini_batches", None)
    if own is not None:
        cut: Iterable[object] = own(*args, **kwargs)
        return cut
    return [args[0] if args else kwargs.get("input", kwargs.get("x"))]


def eagerly() -> AbstractContextManager[object]:
    """Run what `torch.compile` compiled as it was written: compiled code skips new hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
