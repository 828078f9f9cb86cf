"""What is this module? The one place that says of any module whether and how it normalizes.

Of torch's layers and gammabeta's the class says it. Of a subclass with a ``forward`` of its own a
`probe` finds it out, once for each class and its settings. What stays unknown is a stranger, with
the reason: whoever passes over it can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from gammabeta.layers.frozen import FrozenBatchNorm
from gammabeta.layers.probe import Finding, feature_dim, probe

NORMS = (_BatchNorm, _InstanceNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, FrozenBatchNorm)
"""The classes whose formula is known; gammabeta's layers are subclasses of these."""

_KNOWN: dict[Any, Finding | None] = {}
"""What probes have found: class and settings → finding."""

_REMEMBERED = 512


@dataclass(frozen=True)
class Traits:
    """What a module is, as far as normalization is concerned.

    Attributes:
        normalizes: whether it computes what one of `NORMS` does.
        dim: the dim of its input that indexes the features: −1, 1, or 0 for an instance norm's
            input without a batch dim.
        activation: the name of the activation it applies to what it has normalized, or None.
        stranger: why it is not known what a subclass of `NORMS` computes; "" where it is known,
            and for modules that are no norms.
    """

    normalizes: bool
    dim: int = 1
    activation: str | None = None
    stranger: str = ""


_OTHER = Traits(False)


def traits(module: nn.Module, x: Tensor | None = None) -> Traits:
    """Say what ``module`` is.

    Args:
        module: any module. It is not called and not changed; a copy of it may be.
        x: its input, where there is one; without it, an instance norm's has a batch dim.

    Example:
        >>> traits(nn.GroupNorm(2, 4)).normalizes, traits(nn.Linear(4, 4)).normalizes
        (True, False)
        >>> norm = nn.LayerNorm(4)
        >>> norm.forward = lambda x: 2 * x
        >>> traits(norm).stranger
        'LayerNorm has a forward of its own, and computes something else than LayerNorm'
    """
    if not isinstance(module, NORMS):
        return _OTHER
    if not has_own_forward(module):
        return Traits(True, _dim(module, x), getattr(module, "activation", None))
    finding = _found(module)
    if finding is not None:
        return Traits(True, finding.dim, finding.activation)
    base = next(cls for cls in type(module).__mro__ if _is_home(cls.__module__))
    return Traits(
        False,
        stranger=f"{type(module).__name__} has a forward of its own, and computes something else "
        f"than {base.__name__}",
    )


def has_own_forward(module: nn.Module) -> bool:
    """Whether ``module.forward`` was written by neither torch nor gammabeta.

    Example:
        >>> class Renamed(nn.BatchNorm2d):
        ...     pass
        >>> has_own_forward(Renamed(4))
        False
    """
    if "forward" in module.__dict__:
        return True
    home = next(cls for cls in type(module).__mro__ if "forward" in vars(cls))
    return not _is_home(home.__module__)


def channel_dim(norm: nn.Module, x: Tensor) -> int:
    """Return the dim of ``x`` that indexes ``norm``'s features: −1, 1, or 0 without a batch dim."""
    return traits(norm, x).dim


def _dim(norm: Any, x: Tensor | None) -> int:
    if x is not None and isinstance(norm, _InstanceNorm):
        return 0 if x.dim() == norm._get_no_batch_dim() else 1  # type: ignore[no-untyped-call]
    return feature_dim(norm)


def _is_home(module: str) -> bool:
    return module.startswith(("torch.nn.modules.", "gammabeta.layers."))


def _found(module: nn.Module) -> Finding | None:
    """What a probe of ``module`` finds, or found of its like."""
    tensors = (*module.parameters(), *module.buffers())
    if any(is_lazy(t) or t.is_meta or type(t) not in (Tensor, nn.Parameter) for t in tensors):
        return None  # no values yet, or sharded: to draw others could wait for other processes
    key = _settings(module)
    if key is None:
        return probe(module)
    if key not in _KNOWN:
        if len(_KNOWN) >= _REMEMBERED:
            _KNOWN.clear()
        _KNOWN[key] = probe(module)
    return _KNOWN[key]


def _settings(module: nn.Module) -> Any:
    """What makes two modules of a class alike, to be looked up; None if that cannot be known."""
    if "forward" in module.__dict__:
        return None
    found: list[Any] = []
    for name, part in module.named_modules():
        if name and any(True for _ in part.parameters(recurse=False)):
            return None  # a learned part: its values may matter
        plain = {
            key: value
            for key, value in part.__dict__.items()
            if isinstance(value, (bool, int, float, str, tuple, type(None))) and key != "training"
        }
        others = [
            key
            for key, value in part.__dict__.items()
            if key not in plain and not key.startswith("_") and key != "training"
        ]
        if others:
            return None
        tensors = [(key, None if t is None else tuple(t.shape)) for key, t in _tensors(part)]
        found.append((name, type(part), tuple(sorted(plain.items(), key=str)), tuple(tensors)))
    try:
        hash(key := tuple(found))
    except TypeError:
        return None
    return key


def _tensors(part: nn.Module) -> list[tuple[str, Tensor | None]]:
    return [*part._parameters.items(), *part._buffers.items()]
