"""Apply the safe fixes of findings to a model, and say what changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

Repair = Callable[[nn.Module], str]
"""Changes a model in place and returns what it changed, in words; ``""`` if nothing."""


@dataclass(frozen=True)
class Change:
    """One change that a repair made.

    Attributes:
        code: code of the rule.
        text: what changed, such as ``"bn.momentum: 0.99 → 0.01"``.
        stored: whether the model's ``state_dict`` changed. If not, it is a setting, which a
            checkpoint does not hold: change it in the code, too.
    """

    code: str
    text: str
    stored: bool

    def __str__(self) -> str:
        return f"{self.code} {self.text}"

    def as_dict(self) -> dict[str, Any]:
        """Return the change as JSON can represent it."""
        return asdict(self)


@dataclass(frozen=True)
class Repairs:
    """Several repairs as one."""

    each: tuple[Repair, ...]

    def __call__(self, model: nn.Module) -> str:
        """Apply each to ``model``; return what they changed, a line each."""
        return "\n".join(done for repair in self.each if (done := repair(model)))


def joined(repairs: Iterable[Repair | None]) -> Repair | None:
    """Return one repair that does what all of them do; None if there is none."""
    found: list[Repair] = []
    for repair in repairs:
        found += repair.each if isinstance(repair, Repairs) else [repair] if repair else []
    return Repairs(tuple(found)) if len(found) > 1 else found[0] if found else None


def measured(evidence: Any, layers: Iterable[str]) -> Repair | None:
    """Return a repair that replaces running statistics by those that the batches show.

    Args:
        evidence: the forward passes on batches; None without batches.
        layers: paths of batch norms whose statistics hold nothing that training has learned.

    Returns:
        The repair; None if the batches do not show the statistics of all layers.
    """
    try:
        known = {} if evidence is None else evidence.statistics
        mine = {layer: known[layer] for layer in layers}
    except Exception:  # not among those that were measured, or the batches do not serve
        return None
    values = [value for pair in mine.values() for value in pair]
    if not values or not all(bool(torch.isfinite(value).all()) for value in values):
        return None
    count = len(evidence.batches)
    return Repairs(tuple(_writer(path, mean, var, count) for path, (mean, var) in mine.items()))


def _writer(path: str, mean: Tensor, var: Tensor, batches: int) -> Repair:
    def repair(model: nn.Module) -> str:
        norm: Any = model.get_submodule(path)
        with torch.no_grad():
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(var)
        return f"{path}: running statistics measured on {batches} batches"

    return repair


def repaired(
    repairs: Iterable[tuple[str, Repair]], model: nn.Module
) -> tuple[list[Change], list[str]]:
    """Apply each repair to ``model`` in place.

    Args:
        repairs: code of the rule and the repair.
        model: what is repaired.

    Returns:
        The changes, and a note for each repair that failed.
    """
    changes: list[Change] = []
    notes: list[str] = []
    before = _state(model)
    for code, repair in repairs:
        lines: list[str] = []
        for each in repair.each if isinstance(repair, Repairs) else (repair,):
            try:
                lines += each(model).splitlines()
            except Exception as error:
                said = (str(error).strip().splitlines() or [""])[0]
                notes.append(f"{code} was not repaired: {type(error).__name__}: {said}")
        now = _state(model)
        stored, before = not _same(before, now), now
        changes += [Change(code, line, stored) for line in lines if line]
    return changes, notes


def _state(model: nn.Module) -> dict[str, tuple[int, int, Tensor | None]]:
    """Return what tells whether ``state_dict`` has changed: versions, and the values of buffers."""
    buffers = {id(each) for each in model.buffers()}
    found: dict[str, tuple[int, int, Tensor | None]] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue
        plain = id(value) in buffers and value.layout is torch.strided
        mine = value.detach().reshape(-1).clone() if plain else None
        version = 0 if value.is_inference() else value._version
        found[name] = (id(value), version if mine is None else 0, mine)
    return found


def _same(
    before: dict[str, tuple[int, int, Tensor | None]],
    now: dict[str, tuple[int, int, Tensor | None]],
) -> bool:
    if before.keys() != now.keys():
        return False
    for name, (identity, version, old) in before.items():
        new_identity, new_version, new = now[name]
        if old is None or new is None:
            if (identity, version) != (new_identity, new_version):
                return False
        elif old.dtype != new.dtype or old.shape != new.shape or not _equal(old, new):
            return False
    return True


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether both have the same bits; NaN is equal to NaN."""
    return torch.equal(a.view(torch.uint8), b.view(torch.uint8))
