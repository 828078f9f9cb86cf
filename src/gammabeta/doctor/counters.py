"""Count the updates of running statistics without waiting for an accelerator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from gammabeta.doctor.subject import Norm

_LEAP = 64
"""A counter that grows by more between two calls of the model was loaded, not counted."""


class Counters:
    """The counters of some batch norms.

    ``num_batches_tracked`` is read where that is free, on the CPU. Elsewhere the version counter of
    the tensor stands for it: PyTorch raises it with each change in place.

    Args:
        norms: batch norms with running statistics.
    """

    def __init__(self, norms: Sequence[Norm]) -> None:
        self.paths = [norm.path for norm in norms]
        self._norms = {norm.path: norm.module for norm in norms}
        self._read = [_counter(norm) for norm in norms]
        self._last = [read() for read in self._read]

    def grown(self) -> dict[str, int]:
        """Return path → number of updates since the last call, without those of none.

        With momentum 0 a batch is counted, but the statistics do not move: that is no update.
        """
        now = [read() for read in self._read]
        if now == self._last:
            return {}
        found = {
            path: after - before
            for path, before, after in zip(self.paths, self._last, now, strict=True)
            if after > before and getattr(self._norms[path], "momentum", None) != 0
        }
        self._last = now
        return found


def counted(updates: Iterable[int]) -> bool:
    """Whether ``updates`` of a moment are those of forward passes, not of a loaded state."""
    return all(0 < each <= _LEAP for each in updates)


def _counter(norm: Norm) -> Callable[[], int]:
    buffers = norm.module._buffers
    if isinstance(buffers.get("num_batches_tracked"), Tensor):
        return _Tracked(buffers)
    return _Moved(buffers)


class _Tracked:
    """Reads ``num_batches_tracked``, or its version."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        self._buffers = buffers
        self._tensor: Tensor | None = None
        self._view: Any = None

    def __call__(self) -> int:
        tensor = self._buffers.get("num_batches_tracked")
        if tensor is not self._tensor:
            self._tensor, self._view = tensor, _view(tensor)
        if self._view is not None:
            return int(self._view.item())
        return 0 if tensor is None or tensor.is_inference() else int(tensor._version)


class _Moved:
    """Counts how often the first value of ``running_mean`` was found changed; on the CPU only."""

    def __init__(self, buffers: dict[str, Any]) -> None:
        self._buffers = buffers
        self._tensor: Tensor | None = None
        self._view: Any = None
        self._value: float | None = None
        self._count = 0

    def __call__(self) -> int:
        tensor = self._buffers.get("running_mean")
        if tensor is not self._tensor:
            self._tensor, self._view = tensor, _view(tensor)
            self._value = None
        if self._view is not None and self._view.size:
            value = float(self._view.item(0))
            self._count += self._value is not None and value != self._value
            self._value = value
        return self._count


def _view(tensor: Any) -> Any:
    """Return a NumPy array that shares the memory of ``tensor``; None if there is none."""
    if type(tensor) is not Tensor or tensor.device.type != "cpu":
        return None
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError):  # bfloat16, a fake tensor
        return None
