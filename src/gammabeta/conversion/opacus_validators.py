"""Opacus refuses gammabeta's layers where it refuses torch's.

Statistics of a batch mix examples, so that differential privacy does not hold. Opacus looks its
validators up by the exact class of a layer, and knows torch's classes only: without what is here,
``ModuleValidator`` would pass a subclass of batch norm over in silence, and `PrivacyEngine` would
train one that keeps no running statistics. So gammabeta's classes are registered with it, when
``opacus.validators`` is imported or, if it was before, at once. Opacus itself is not imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import nn

from gammabeta import layers
from gammabeta.conversion.convert import convert
from gammabeta.conversion.when_imported import when_imported
from gammabeta.layers.epilogue import Epilogue
from gammabeta.layers.timestep import TimestepBatchNorm

_VALIDATORS = "opacus.validators"


def register(validators: ModuleType) -> None:
    """Register gammabeta's layers with ``opacus.validators``, each as torch's that it derives from.

    What `ModuleValidator.fix` makes of one is gammabeta's twin of what it makes of torch's, with
    the activation, so that a residual can still be given.
    """
    registry: Any = validators.ModuleValidator
    for name in layers.__all__:
        cls = getattr(layers, name)
        for theirs in cls.__mro__[1:] if isinstance(cls, type) else ():
            if theirs in registry.VALIDATORS:
                registry.VALIDATORS[cls] = registry.VALIDATORS[theirs]
                if theirs in registry.FIXERS:
                    registry.FIXERS[cls] = _with_epilogue(registry.FIXERS[theirs])
                break
    registry.VALIDATORS[TimestepBatchNorm] = registry.VALIDATORS[nn.BatchNorm1d]


def _with_epilogue(fix: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Let a fixer's new layer have the activation of the old one."""

    def fixed(module: nn.Module, **options: Any) -> nn.Module:
        new = fix(module, **options)
        if new is module:
            return new
        new = convert(new)
        if isinstance(new, Epilogue) and isinstance(module, Epilogue):
            new._set_activation(module.activation)
        return new

    return fixed


def _register_or_warn(validators: ModuleType) -> None:
    try:
        register(validators)
    except Exception as error:  # of another version of Opacus
        warnings.warn(
            f"gammabeta's layers could not be registered with Opacus ({error!r}), so Opacus may "
            "not reject those that mix examples: batch norms, and instance norms that track "
            "running statistics",
            UserWarning,
            stacklevel=2,
        )


def watch_for_opacus() -> None:
    """Register with Opacus: now, if it is imported already, or when it is."""
    when_imported(_VALIDATORS, _register_or_warn)
