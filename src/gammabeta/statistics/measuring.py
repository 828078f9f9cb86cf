"""Measure what layers normalize, while a model runs."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.layers.traits import hides_its_input, mini_batches, synchronizes
from gammabeta.statistics.moments import Moments, moments
from gammabeta.statistics.normalized import Recorded, Watch
from gammabeta.statistics.undo import undo_all

SAYS_ONE_VALUE = ("1 value per channel", "one value per feature")
"""What torch's and gammabeta's layers say where they get one value per channel."""


class OneValueError(ValueError):
    """A layer was given one value per channel, which has no variance."""


@dataclass
class Measured:
    """What `measuring` found in a forward pass.

    Attributes:
        batches: name of the layer and moments, for each mini-batch that a layer normalized.
        failure: what it raised inside the forward pass, or None. It is noted here too, because
            the model may catch it or raise something else in its place.
    """

    batches: list[tuple[str, Moments]] = field(default_factory=list)
    failure: ValueError | None = None

    def clear(self) -> None:
        """Forget everything, before the next forward pass."""
        self.batches.clear()
        self.failure = None


@contextmanager
def measuring(
    layers: Mapping[str, nn.Module], watched: Mapping[str, nn.Module] | None = None
) -> Iterator[Measured]:
    """Measure each mini-batch that one of ``layers`` normalizes.

    A layer called twice in a forward pass gives two entries. What activation checkpointing
    computes again in a backward pass gives none. A layer whose ``forward`` is not torch's or
    gammabeta's may normalize something else than its input; `Watch` finds out what.

    Args:
        layers: by name; in training mode, and with running statistics.
        watched: more layers that normalize by the mini-batch, for `OneValueError` only.

    Raises:
        OneValueError: inside the forward pass, before a layer that got one value per channel runs.
        ValueError: inside the forward pass, where it cannot be known what a layer normalizes.

    Example:
        >>> import torch
        >>> layer = nn.BatchNorm1d(1)
        >>> with measuring({"bn": layer}) as measured:
        ...     y = layer(torch.tensor([[1.0], [3.0]]))
        >>> [(name, m.mean.item(), m.var.item()) for name, m in measured.batches]
        [('bn', 2.0, 1.0)]
    """
    measured = Measured()
    undo: list[Callable[[], object]] = []
    try:
        for name, layer in {**(watched or {}), **layers}.items():
            observer = Observer(name, layer, measured, keeps=name in layers)
            if hides_its_input(layer):
                undo.append(partial(_put_back, layer, layer.__dict__.get("forward")))
                layer.__dict__["forward"] = partial(observer.forward, layer.forward)
            else:
                # The last pre-hook sees the input as the layer does.
                handle = layer.register_forward_pre_hook(observer.before, with_kwargs=True)
                undo.append(handle.remove)
        with warnings.catch_warnings():
            # Reentrant checkpointing warns that nothing requires a gradient; nothing should.
            warnings.filterwarnings("ignore", "None of the inputs have requires_grad=True")
            yield measured
    finally:
        undo_all(reversed(undo))


def _put_back(layer: nn.Module, own: object) -> None:
    """Give ``layer`` its ``forward`` back: ``own`` on the object, or the one of its class."""
    if own is None:
        layer.__dict__.pop("forward", None)
    else:
        layer.__dict__["forward"] = own


class Observer:
    """Measures one layer."""

    def __init__(self, name: str, layer: Any, measured: Measured, keeps: bool) -> None:
        self._who = f"layer {name!r} ({type(layer).__name__})"
        self._name, self._layer, self._measured, self._keeps = name, layer, measured, keeps

    def before(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The pre-hook of a layer that normalizes what it is called with."""
        if is_recomputed():
            return
        for x in mini_batches(layer, args, kwargs):
            self._take(x)

    def forward(self, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Stands in for a ``forward`` of which only watching tells what it normalizes."""
        if is_recomputed():
            return forward(*args, **kwargs)
        seen: list[bool] = []

        def take(x: Tensor, by_batch: bool) -> None:
            seen.append(by_batch)
            if by_batch:
                self._take(x)

        recorded = Recorded(self._layer) if self._keeps else None
        try:
            with Watch(self._layer, take):
                y = forward(*args, **kwargs)
        except ValueError as error:
            if self._measured.failure is None and any(s in str(error) for s in SAYS_ONE_VALUE):
                self._fail(OneValueError(f"{self._who} got one value per channel"), error)
            raise
        if self._keeps and seen and not any(seen):
            self._fail(
                ValueError(
                    f"{self._who} uses its running statistics in train() too, so no "
                    "mini-batch can be measured; freeze() it to exclude it"
                )
            )
        if recorded is not None and not seen:
            self._confirm(recorded, args, kwargs)
        return y

    def _confirm(self, recorded: Recorded, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the input of the call if the layer's own statistics agree; else raise."""
        (x,) = _input(args, kwargs)
        if isinstance(x, Tensor) and not x.numel():
            return
        if isinstance(x, Tensor) and x.dim() >= 2 and x.is_floating_point():
            measured = moments(x)
            if recorded.confirms(measured):
                self._measured.batches.append((self._name, measured))
                return
        self._fail(
            ValueError(
                f"{self._who} has a forward of its own, and what it normalizes is unknown: its "
                "running statistics did not match those of its input; define a method "
                "mini_batches, with the arguments of forward, that returns the tensors "
                "(N, C, ...) it normalizes, or freeze() the layer to exclude it"
            )
        )

    def _take(self, x: object) -> None:
        """Measure one mini-batch."""
        if not isinstance(x, Tensor) or x.dim() < 2 or not x.numel():
            return
        if x.numel() == x.shape[1] and not _synchronizes(self._layer):
            self._fail(OneValueError(f"{self._who} got one value per channel"))
        if not self._keeps:
            return
        mean = self._layer.running_mean
        channels = x.shape[1] if mean is None else len(mean)
        if x.shape[1] != channels:
            self._fail(
                ValueError(
                    f"{self._who} has {channels} channels, but a mini-batch of shape "
                    f"{tuple(x.shape)} has {x.shape[1]} at dim 1"
                )
            )
        self._measured.batches.append((self._name, moments(x)))

    def _fail(self, error: ValueError, cause: Exception | None = None) -> None:
        if self._measured.failure is None:
            self._measured.failure = error
        raise error from cause


def _synchronizes(layer: nn.Module) -> bool:
    """Whether other processes add their values to those that ``layer`` is given here."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and synchronizes(layer) and torch.distributed.get_world_size() > 1


def is_recomputed() -> bool:
    """Whether this is inside a backward pass: checkpointing computes what was measured again."""
    return torch._C._current_graph_task_id() != -1


def _input(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[object]:
    return [args[0] if args else kwargs.get("input", kwargs.get("x"))]


def eagerly() -> AbstractContextManager[object]:
    """Run what `torch.compile` compiled as it was written: compiled code skips new hooks."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance
