"""A layer that normalizes by the batches it is tested on: what stands in for its ``forward``.

Nothing of the layer but this one attribute differs between its calls. Its mode and its buffers are
changed while its ``forward`` runs, and changed back before another thread may enter it. So
``model.eval()`` inside the block does not end the adaptation, and a ``state_dict`` taken inside is
the model's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.layers.traits import hides_its_input, lineage, mini_batches
from gammabeta.statistics.freeze import is_frozen
from gammabeta.statistics.measuring import (
    SAYS_ONE_VALUE,
    Measured,
    Observer,
    OneValueError,
    is_recomputed,
)
from gammabeta.statistics.moments import Moments, merge, moments, where_float64_is

_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


class Session:
    """One block of `gammabeta.adapt`: what its layers normalize by.

    Args:
        prior: how many examples the running statistics count as, N.
        running: whether the batches are added up.

    Attributes:
        names: layer → its name in the model.
        thread: the thread that opened the block.
    """

    def __init__(self, prior: float, running: bool) -> None:
        self.prior, self.running = prior, running
        self.names: dict[nn.Module, str] = {}
        self.thread = threading.get_ident()
        self._seen: dict[nn.Module, tuple[int, Moments]] = {}

    @property
    def by_batch(self) -> bool:
        """Whether layers normalize as in training."""
        return not self.prior and not self.running

    def who(self, layer: nn.Module) -> str:
        """What messages call ``layer``."""
        return f"layer {self.names.get(layer, '')!r} ({type(layer).__name__})"

    def statistics(self, layer: Any, batch: Moments | None, examples: int) -> tuple[Tensor, Tensor]:
        """Return the mean and variance that a layer is to normalize a batch by, (C,) float64.

        Args:
            layer: the layer, with its own running statistics.
            batch: what was measured of the batch, or None if there is nothing to measure.
            examples: the number of examples it has.

        Raises:
            OneValueError: only one value per channel is known, and ``prior`` is 0.
        """
        if self.running:
            examples, batch = self._added(layer, batch, examples)
        mean, var = (
            where_float64_is(value).double() for value in (layer.running_mean, layer.running_var)
        )
        if batch is None:
            return mean, var
        if batch.count < 2 and not self.prior:
            raise OneValueError(_one_value(self.who(layer), self.running))
        own = self.prior / (self.prior + examples)
        mixed = own * mean + (1 - own) * batch.mean
        if batch.count < 2:  # it says nothing of the variance
            return mixed, var
        # ``running_var`` is an average of unbiased variances, so it is mixed with such a one.
        unbiased = batch.var * (batch.count / (batch.count - 1))
        return mixed, own * var + (1 - own) * unbiased

    def _added(
        self, layer: nn.Module, batch: Moments | None, examples: int
    ) -> tuple[int, Moments | None]:
        """All batches up to this one; one that is not finite, or seen before, is not added."""
        seen, before = self._seen.get(layer, (0, None))
        if batch is None or not batch.finite or is_recomputed():
            return seen, before
        together = batch if before is None else merge(before, batch)
        self._seen[layer] = seen + examples, together
        return self._seen[layer]


class AdaptedForward:
    """Stands in for the ``forward`` of a layer while a model is adapted.

    It is an attribute of the layer, found before the class's method. A copy of the layer made
    meanwhile, or a pickle of it, has the layer's own ``forward``.

    Args:
        layer: the batch norm.
    """

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer
        self.sessions: list[Session] = []
        self._before: Callable[..., Any] | None = layer.__dict__.get("forward")
        self._own: Callable[..., Any] = layer.forward
        self._hides = hides_its_input(layer)
        self._lock = threading.RLock()  # the layer's attributes belong to one call at a time

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What ``layer.forward`` does while adapted."""
        with self._lock:
            session = self._session()
            if session is None or is_frozen(self.layer):
                return self._own(*args, **kwargs)
            if session.by_batch:
                return self._by_batch(session, args, kwargs)
            return self._by_mixture(session, args, kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        if self._before is None:
            return getattr, (self.layer, "forward")
        return _itself, (self._before,)

    def leave(self, session: Session) -> None:
        """End ``session``; after the last, the layer is as it was."""
        self.sessions.remove(session)
        if self.sessions or self.layer.__dict__.get("forward") is not self:
            return
        if self._before is None:
            del self.layer.__dict__["forward"]
        else:
            self.layer.__dict__["forward"] = self._before

    def _session(self) -> Session | None:
        """The latest of this thread; for a thread without one, the latest of all."""
        sessions = list(self.sessions)
        mine = [session for session in sessions if session.thread == threading.get_ident()]
        return (mine or sessions or [None])[-1]  # type: ignore[list-item]

    def _by_batch(self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            with _lent(self.layer, True):
                return self._own(*args, **kwargs)
        except ValueError as error:
            if any(words in str(error) for words in SAYS_ONE_VALUE):
                raise OneValueError(_one_value(session.who(self.layer), False)) from error
            raise

    def _by_mixture(self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer: Any = self.layer
        with torch.no_grad():
            measured = self._measured(session, args, kwargs)
            batch = reduce(merge, measured) if measured else None
            examples = _examples(args, kwargs)
            mean, var = session.statistics(layer, batch, examples)
            mean, var = mean.to(layer.running_mean), var.to(layer.running_var)
        with _lent(layer, False, mean, var):
            return self._own(*args, **kwargs)

    def _measured(
        self, session: Session, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Moments]:
        """Moments of each mini-batch that the layer would normalize in training."""
        layer: Any = self.layer
        if self._hides:
            found = Measured()
            observer = Observer(session.names.get(layer, ""), layer, found, keeps=True)
            with _lent(layer, True):
                observer.forward(self._own, *args, **kwargs)
            return [batch for _, batch in found.batches]
        channels = len(layer.running_mean)
        return [
            moments(x)
            for x in mini_batches(layer, args, kwargs)
            if isinstance(x, Tensor) and x.dim() > 1 and x.numel() and x.shape[1] == channels
        ]


def adapted_forward(layer: nn.Module) -> AdaptedForward | None:
    """Return what stands in for the ``forward`` of ``layer``, or None if it is not adapted."""
    forward = layer.__dict__.get("forward")
    return forward if isinstance(forward, AdaptedForward) else None


@contextmanager
def _lent(
    layer: Any, training: bool, mean: Tensor | None = None, var: Tensor | None = None
) -> Iterator[None]:
    """Give ``layer`` a mode, and buffers that it may write to; undo it on leaving.

    Args:
        layer: a batch norm.
        training: its mode.
        mean, var: its running statistics; copies of its own if None.
    """
    attributes: dict[str, Any] = {"training": training}
    if hasattr(layer, "on_nonfinite"):  # the guard: these statistics are thrown away
        attributes["on_nonfinite"] = "accept"
    if hasattr(layer, "fuses"):  # it could compute its output later, when all this is put back
        attributes["fuses"] = None
    if training and "batch-renorm" in lineage(layer):  # it would go by the running statistics
        attributes.update(r_max=1.0, d_max=0.0)
    before = {key: layer.__dict__[key] for key in attributes if key in layer.__dict__}
    buffers = {key: layer._buffers[key] for key in _BUFFERS if key in layer._buffers}
    given = {"running_mean": mean, "running_var": var}
    try:
        for key, buffer in buffers.items():
            new = given.get(key)
            copied = None if buffer is None else buffer.detach().clone()
            layer._buffers[key] = copied if new is None else new
        layer.__dict__.update(attributes)
        yield
    finally:
        layer._buffers.update(buffers)
        for key in attributes.keys() - before.keys():
            layer.__dict__.pop(key, None)
        layer.__dict__.update(before)


def _examples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """The number of examples in the input: the size of its first dim, 1 or more."""
    x = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    return max(1, len(x)) if x is not None and x.dim() else 1


def _one_value(who: str, running: bool) -> str:
    also = "" if running else ", or running=True after a larger batch"
    return (
        f"{who} got one value per channel, which has no variance; give a larger batch, or prior=16 "
        f"or so to mix it with the running statistics{also}"
    )


def _itself(value: Any) -> Any:
    return value
