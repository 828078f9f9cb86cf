"""Whose optimizer steps: that of the model, of a part of it, or of another network."""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


class Owners:
    """Counts optimizer steps by the modules whose parameters they move.

    Args:
        modules: path → module, the model itself is ``""``; modules may be added later.

    Attributes:
        tally: path of a module → number of steps so far of its own optimizers, and of others.
    """

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self._modules = modules
        self._known: weakref.WeakKeyDictionary[Any, tuple[int, frozenset[str]]] = (
            weakref.WeakKeyDictionary()
        )
        self.tally: dict[str, list[int]] = {path: [0, 0] for path in modules}

    def stepped(self, optimizer: Any) -> bool:
        """Count a step of ``optimizer``; return whether it moves the model."""
        owners = self._of(optimizer)
        for path, tally in self.tally.items():
            tally[path not in owners] += 1
        return "" in owners

    def separate(self) -> None:
        """Count as if each module had stepped, so that calls before and after are kept apart."""
        for tally in self.tally.values():
            tally[0] += 1

    def deepen(self, paths: list[str]) -> None:
        """Count for more modules, too."""
        for path in paths:
            self.tally[path] = list(self.tally[""])
        self._known.clear()

    def _of(self, optimizer: Any) -> frozenset[str]:
        groups = optimizer.param_groups
        size = sum([len(group["params"]) for group in groups])
        known = self._known.get(optimizer)
        if known is None or known[0] != size:
            mine = {id(p) for group in groups for p in group["params"]}
            known = (
                size,
                frozenset(
                    path
                    for path, module in self._modules.items()
                    if any(id(p) in mine for p in module.parameters())
                ),
            )
            self._known[optimizer] = known
        return known[1]
