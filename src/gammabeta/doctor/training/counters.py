"""Count the updates of running statistics without waiting for an accelerator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from gammabeta.doctor.subject import Norm

_TRACKED = "num_batches_tracked"
_NONE = object()
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
        self._norms = [norm.module for norm in norms]
        self._buffers = [norm.module._buffers for norm in norms]
        self._names = [_name(buffers) for buffers in self._buffers]
        self._tensors: list[Any] = [None] * len(norms)
        self._views: list[Any] = [_NONE] * len(norms)
        self._moves = [0] * len(norms)
        self._values: list[float | None] = [None] * len(norms)
        self._last = self._now()

    def grown(self) -> dict[str, int]:
        """Return path → number of updates since the last call, without those of none.

        With momentum 0 a batch is counted, but the statistics do not move: that is no update.
        """
        now = self._now()
        if now == self._last:
            return {}
        found = {
            path: after - before
            for path, norm, before, after in zip(
                self.paths, self._norms, self._last, now, strict=True
            )
            if after > before and norm.__dict__.get("momentum") != 0
        }
        self._last = now
        return found

    def _now(self) -> list[int]:
        rows = zip(self._buffers, self._names, self._tensors, self._views, strict=True)
        return [
            view.item() if buffers.get(name) is tensor and view is not _NONE else self._read(i)
            for i, (buffers, name, tensor, view) in enumerate(rows)
        ]

    def _read(self, i: int) -> int:
        """Read a counter whose tensor is new, or has no memory that NumPy can share."""
        name, tensor = self._names[i], self._buffers[i].get(self._names[i])
        if tensor is not self._tensors[i]:
            self._tensors[i], self._values[i] = tensor, None
            view = _view(tensor)
            self._views[i] = _NONE if view is None or name != _TRACKED else view
        if self._views[i] is not _NONE:
            return int(self._views[i].item())
        if not isinstance(tensor, Tensor):
            return 0
        if name == _TRACKED:
            return 0 if tensor.is_inference() else int(tensor._version)
        return self._moved(i, tensor)

    def _moved(self, i: int, tensor: Tensor) -> int:
        """Count how often the first value of a running mean was found changed; on the CPU only."""
        if tensor.device.type == "cpu" and tensor.numel():
            value = float(tensor.flatten()[0])
            self._moves[i] += self._values[i] is not None and value != self._values[i]
            self._values[i] = value
        return self._moves[i]


def counted(updates: Iterable[int]) -> bool:
    """Whether ``updates`` of a moment are those of forward passes, not of a loaded state."""
    return all(0 < each <= _LEAP for each in updates)


def _name(buffers: dict[str, Any]) -> str:
    return _TRACKED if isinstance(buffers.get(_TRACKED), Tensor) else "running_mean"


def _view(tensor: Any) -> Any:
    """Return a NumPy array that shares the memory of ``tensor``; None if there is none."""
    if type(tensor) is not Tensor or tensor.device.type != "cpu":
        return None
    try:
        return tensor.detach().numpy()
    except (TypeError, RuntimeError):  # bfloat16, a fake tensor
        return None
