"""Declare that something a rule would report is meant."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from torch import nn

from gammabeta.doctor.finding import Finding
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
        raise TypeError(f"module is of type {type(module).__name__}; give a torch.nn.Module")
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


def apart(findings: Iterable[Finding], model: nn.Module) -> tuple[list[Finding], list[Finding]]:
    """Return the findings that nobody declared, and those that are intended.

    A finding of several layers, some of which are declared, is taken apart.

    Args:
        findings: of ``model``, with their codes.
        model: the examined model.
    """
    unknown, meant = [], []
    for each in findings:
        declared = [layer for layer in each.layers if is_intended(each.code, model, layer)]
        rest = [layer for layer in each.layers if layer not in declared]
        if declared:
            meant.append(_of(each, declared))
        if rest:
            unknown.append(_of(each, rest))
    return unknown, meant


def _of(finding: Finding, layers: list[str]) -> Finding:
    """Return ``finding`` of these layers only."""
    if len(layers) == len(finding.layers):
        return finding
    layer = finding.layer if finding.layer in layers else layers[0]
    return dataclasses.replace(finding, layer=layer, layers=tuple(layers), repair=None)
