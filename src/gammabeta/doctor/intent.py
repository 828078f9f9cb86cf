"""Declare that something a rule would report is meant."""

from __future__ import annotations

from torch import nn

from gammabeta.doctor.rule import RULES

ATTRIBUTE = "_gammabeta_intended"
"""The attribute of a module that holds the codes: it survives copies and pickles."""


def intended(code: str, module: nn.Module) -> nn.Module:
    """Declare that ``module`` is as it is on purpose, so that the rule ``code`` is silent there.

    It holds for the module and everything in it. The report counts what was silenced.

    Args:
        code: code or name of a rule, such as ``"GB103"``.
        module: the layer, or a module that contains it.

    Returns:
        ``module``.

    Raises:
        ValueError: no rule has this code.
        TypeError: ``module`` is not a module.

    Example:
        >>> from gammabeta.doctor import examine
        >>> norm = nn.BatchNorm1d(4, momentum=0.9)
        >>> model = nn.Sequential(nn.Linear(4, 4, bias=False), intended("GB103", norm))
        >>> examine(model).findings
        []
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"module is a {type(module).__name__}; give a torch.nn.Module")
    codes = set(getattr(module, ATTRIBUTE, ()))
    object.__setattr__(module, ATTRIBUTE, frozenset(codes | {RULES[code].code}))
    return module


def is_intended(code: str, model: nn.Module, path: str) -> bool:
    """Whether the module at ``path`` of ``model``, or one that contains it, is declared so."""
    module: nn.Module | None = model
    for name in ["", *(path.split(".") if path else [])]:
        module = module if not name else getattr(module, name, None)
        if not isinstance(module, nn.Module):
            return False
        if code in getattr(module, ATTRIBUTE, ()):
            return True
    return False
