"""What a conversion changed, layer by layer."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from gammabeta.layers.findings import ADOPTED
from gammabeta.table import table

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change:
    """A module that became one of another class.

    Attributes:
        names: its names in the model; several if it is in several places.
        before, after: its classes, as `label` names them.
        lost: what could not be carried over.
        notes: what else a person should know.
        adjusted: what was asked for and could not be done as it was asked.
    """

    names: tuple[str, ...]
    before: str
    after: str
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Left:
    """A normalization layer left as it is.

    Attributes:
        names: its names in the model.
        kind: its class, as `label` names it.
        reason: why it was left.
    """

    names: tuple[str, ...]
    kind: str
    reason: str


@dataclass(frozen=True)
class Fusion:
    """What becomes of the activation, and of the sum before it, that follow a layer.

    Attributes:
        names: the layer's names in the model.
        fuses: whether they become part of the layer's kernel call.
        words: what fuses, or why nothing does.
    """

    names: tuple[str, ...]
    fuses: bool
    words: str


@dataclass
class Conversion:
    """What `gammabeta.convert` or `gammabeta.revert` did; ``print`` shows it.

    Attributes:
        changes: in the order of ``model.named_modules()``.
        left: normalization layers that might have been meant and were left alone.
        fusions: what the layers fuse with, and why the others do not; empty where not asked.

    Example:
        >>> print(Conversion([Change(("bn",), "nn.BatchNorm2d", "gb.GroupNorm", lost=("β",))]))
        1 layer changed, 0 left
        layer  was             is            lost  note
        bn     nn.BatchNorm2d  gb.GroupNorm  β
    """

    changes: list[Change] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    fusions: list[Fusion] = field(default_factory=list)

    @property
    def lost(self) -> Counter[str]:
        """What could not be carried over → in how many layers."""
        return Counter(what for change in self.changes for what in change.lost)

    def __str__(self) -> str:
        number = len(self.changes)
        lines = [f"{number} layer{'' if number == 1 else 's'} changed, {len(self.left)} left"]
        if self.changes:
            heads = ("layer", "was", "is", "lost", "note")
            rows = [
                (
                    _names(change.names),
                    change.before,
                    change.after,
                    "; ".join(change.lost),
                    "; ".join(change.adjusted + change.notes),
                )
                for change in self.changes
            ]
            lines.append(table(heads, rows, left=len(heads)))
        if self.left:
            heads_left = ("left", "is", "because")
            left = [(_names(one.names), one.kind, one.reason) for one in self.left]
            lines.append(table(heads_left, left, left=3))
        if self.fusions:
            lines.append(self._fused())
        return "\n".join(lines)

    def _fused(self) -> str:
        """How many layers fuse, and with what; then why the others do not."""
        fused = Counter(one.words for one in self.fusions if one.fuses)
        alone = Counter(one.words for one in self.fusions if not one.fuses)
        heads = ("layers", "fuse with what follows")
        rows = [(f"{number:6d}", words) for words, number in fused.most_common()]
        rows += [(f"{number:6d}", f"no: {words}") for words, number in alone.most_common()]
        return table(heads, rows, left=2)

    def summary(self) -> str:
        """What was lost, adjusted and left, in one line; empty if nothing was."""
        counted = Counter({f"lost: {what}": number for what, number in self.lost.items()})
        counted.update(what for change in self.changes for what in change.adjusted)
        parts = [
            f"{what} ({number} of {len(self.changes)} layers)" for what, number in counted.items()
        ]
        parts += [f"{_names(one.names)} left as it is: {one.reason}" for one in self.left[:3]]
        if len(self.left) > 3:
            parts.append(f"and {len(self.left) - 3} more left")
        return "; ".join(parts)


def label(cls: type[nn.Module]) -> str:
    """The name of a class as a person writes it.

    Example:
        >>> label(nn.ReLU)
        'nn.ReLU'
    """
    its = cls.__bases__[0] if ADOPTED in vars(cls) else cls
    home = {"torch": "nn.", "gammabeta": "gb."}.get(its.__module__.split(".")[0], "")
    return f"{home}{cls.__name__}"


def _names(names: tuple[str, ...]) -> str:
    return " = ".join(name or "(model)" for name in names)


Report = Callable[[Conversion], object]
"""What a person gives to be called with what was changed."""


def tell(who: str, conversion: Conversion, report: Report | None, warning: str) -> None:
    """Give the report to whom it is for; without one, warn if there is something to say.

    To be called before anything is changed: a report may raise, and a warning too.
    """
    if report is not None:
        report(conversion)
        return
    _log.info("%s", conversion)
    if warning:
        said = f"gammabeta.{who}: {warning} (report=print shows every layer)"
        warnings.warn(said, UserWarning, stacklevel=3)
