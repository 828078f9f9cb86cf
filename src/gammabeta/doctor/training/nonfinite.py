"""Where values stop being finite: in which module of a model, or in whose parameters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.statistics.preserve import preserved

_MOST = 16
"""Tensors of an output or of arguments that are looked at."""


@dataclass(frozen=True)
class Origin:
    """Where the first value that is not finite comes from.

    Attributes:
        path: path of the module.
        paths: the same, and further modules whose parameters are not finite.
        by_update: whether parameters were not finite before the pass.
        kind: ``"NaN"`` or ``"infinite"``.
        largest: the largest absolute value of the module's inputs; 0 if it has none.
    """

    path: str
    paths: tuple[str, ...]
    by_update: bool
    kind: str = "NaN"
    largest: float = 0.0


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the floating tensors in ``value``, inside tuples, lists, dicts and dataclasses."""
    yield from islice(_tensors(value, 0), _MOST)


def _tensors(value: Any, depth: int) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.layout == torch.strided and not value.is_meta:
            yield value
    elif depth < 4:
        if isinstance(value, dict) or (hasattr(value, "values") and callable(value.values)):
            value = value.values()
        elif not isinstance(value, (tuple, list)):
            value = list(getattr(value, "__dict__", {}).values()) if depth == 0 else ()
        for each in value:
            yield from _tensors(each, depth + 1)


def is_finite(x: Tensor) -> bool:
    """Whether all values of ``x`` are finite; −∞, as in masks, is let pass."""
    return not bool((torch.isnan(x) | (x == torch.inf)).any())


def nan_flag(y: Tensor) -> tuple[Tensor, Any]:
    """Begin to copy to the host whether ``y`` has a NaN, and return it with its event."""
    flag = torch.isnan(y.detach()).any().to("cpu", non_blocking=True)
    event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(y.device))
    return flag, event


def origin_in_forward(model: nn.Module, args: Any, kwargs: Any) -> Origin | None:
    """Return where the first value that is not finite appears in a forward pass; None if nowhere.

    Parameters that are not finite come first. Else the model runs once more, without gradients,
    and is left as it was. A distributed model does not run: other ranks would have to join.
    """
    broken = [
        path
        for path, module in model.named_modules()
        if any(not _all_finite(p) for p in module.parameters(recurse=False))
    ]
    if broken:
        paths = tuple(reversed(broken))
        return Origin(paths[0], paths, by_update=True)
    if any(hasattr(m, "no_sync") for m in model.modules()):
        return None
    return _rerun(model, args, kwargs)


def _all_finite(p: Tensor) -> bool:
    if p.is_meta or not p.is_floating_point() or isinstance(p, nn.UninitializedParameter):
        return True
    return bool(torch.isfinite(p.detach()).all())


class _FoundError(Exception):
    """Ends the pass at the origin."""

    def __init__(self, origin: Origin) -> None:
        super().__init__(origin.path)
        self.origin = origin


def _rerun(model: nn.Module, args: Any, kwargs: Any) -> Origin | None:
    handles = []
    # The innermost module comes first, because its hook runs before those around it.
    for path, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or not path:
            continue
        handles.append(module.register_forward_hook(_Look(path), with_kwargs=True))
    output: Any = None
    try:
        with torch.no_grad(), _swapped_buffers(model), preserved(model):
            output = model.forward(*args, **kwargs)
    except _FoundError as found:
        return found.origin
    except Exception:
        return None
    finally:
        for handle in handles:
            handle.remove()
    bad = [y for y in tensors(output) if not is_finite(y)]
    return Origin("", ("",), False, _kind(bad[0])) if bad else None


class _Look:
    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        bad = next((y for y in tensors(output) if not is_finite(y)), None)
        if bad is None:
            return
        given = [x for x in tensors([args, kwargs]) if x.numel()]
        if all(is_finite(x) for x in given):
            largest = max(
                (float(x.detach().abs()[x != -torch.inf].max()) for x in given), default=0
            )
            path = self._path
            raise _FoundError(Origin(path, (path,), False, _kind(bad), largest))


def _largest(x: Tensor) -> float:
    return float(x.detach().masked_fill(x == -torch.inf, 0).abs().max())


def _kind(y: Tensor) -> str:
    return "NaN" if bool(torch.isnan(y).any()) else "infinite"


@contextlib.contextmanager
def _swapped_buffers(model: nn.Module) -> Iterator[None]:
    """Let a pass write to copies of the buffers, so that their version counters stand still."""
    kept: list[tuple[nn.Module, str, Tensor]] = []
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for name, buffer in module._buffers.items():
            if isinstance(buffer, Tensor):
                kept.append((module, name, buffer))
    try:
        for module, name, buffer in kept:
            module._buffers[name] = buffer.clone()
        yield
    finally:
        for module, name, buffer in kept:
            module._buffers[name] = buffer
