"""What probes have found, remembered: one probe for each class and its settings."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from gammabeta.layers.probe import Finding, probe, reason_of_tensors

_KNOWN: dict[Any, Finding | None] = {}
"""What probes have found: class and settings → finding."""

_ONE_BY_ONE: WeakKeyDictionary[nn.Module, tuple[Any, Finding | None]] = WeakKeyDictionary()
"""The same of modules whose settings cannot be compared: its forward and parts, and the finding."""

ADOPTED = "_gammabeta_adopted"
"""The attribute of a class, made from another, whose modules `gammabeta.convert` has adopted."""

_REMEMBERED = 512
_OF_NO_MATTER = ("training", "qualified_name", "_refused")


def as_written(module: nn.Module) -> nn.Module:
    """Return ``module``; of an adopted one, an object of the class it was written with.

    That shares all attributes with ``module``.
    """
    original = getattr(type(module).__dict__.get(ADOPTED), "original", None)
    if original is None:
        return module
    written: nn.Module = original.__new__(original)
    object.__setattr__(written, "__dict__", module.__dict__)
    return written


def finding_of(module: nn.Module) -> Finding | None:
    """Return what a probe of ``module`` finds, or has found of its like."""
    if reason_of_tensors(module):
        return None
    written = as_written(module)
    key = _settings(written)
    if key is None:
        parts = tuple((id(m), id(m.__dict__.get("forward"))) for m in module.modules())
        asked = _ONE_BY_ONE.get(module)
        if asked is None or asked[0] != parts:
            asked = _ONE_BY_ONE[module] = (parts, probe(written))
        return asked[1]
    if key not in _KNOWN:
        if len(_KNOWN) >= _REMEMBERED:
            _KNOWN.clear()
        _KNOWN[key] = probe(written)
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
            if isinstance(value, (bool, int, float, str, tuple, type(None)))
            and key not in _OF_NO_MATTER
        }
        others = [
            key
            for key, value in part.__dict__.items()
            if key not in plain and not key.startswith("_") and key not in _OF_NO_MATTER
        ]
        if others:
            return None
        tensors = [
            (key, None if t is None else (type(t), t.is_meta, tuple(t.shape)))
            for key, t in (*part._parameters.items(), *part._buffers.items())
        ]
        found.append((name, type(part), tuple(sorted(plain.items(), key=str)), tuple(tensors)))
    try:
        hash(key := tuple(found))
    except TypeError:
        return None
    return key
