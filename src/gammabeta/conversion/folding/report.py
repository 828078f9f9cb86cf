"""What `gammabeta.fold` did, norm by norm, and how it was proved."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from gammabeta.conversion.report import Left
from gammabeta.table import table

SAME = 2.0**-23
"""The largest relative difference of two models in float64 that compute the same function."""


@dataclass(frozen=True)
class Folded:
    """A norm that is now part of another layer.

    Attributes:
        names: the norm's names in the model.
        kind: its class.
        into: the name of the layer it was folded into; several where their outputs are joined.
        host: that layer's class.
        where: ``"before"`` or ``"after"``: where that layer is.
        leaves: the class of the module in the norm's place.
        new_bias: whether the layer got a bias it did not have.
    """

    names: tuple[str, ...]
    kind: str
    into: str
    host: str
    where: str
    leaves: str = "nn.Identity"
    new_bias: bool = False


@dataclass(frozen=True)
class Proof:
    """How far outputs are apart on the example.

    Attributes:
        absolute: the largest difference between the folded and the original model's outputs.
        relative: the same, relative to the largest absolute value of the original's outputs.
        allowed: what ``folded_error`` may be at most; without float64, what ``relative`` may be.
        folded_error, original_error: the largest distance of each from the original computed in
            float64; None if a tolerance was given or the model does not run in float64.
        difference: the largest distance of the original from the model folded, both in float64,
            relative to the largest absolute value; None as above.
    """

    absolute: float
    relative: float
    allowed: float
    folded_error: float | None = None
    original_error: float | None = None
    difference: float | None = None

    @property
    def holds(self) -> bool:
        """Whether the folded model computes the same, as exactly."""
        if self.difference is not None and not self.difference <= SAME:
            return False
        measured = self.relative if self.folded_error is None else self.folded_error
        return measured <= self.allowed

    def __str__(self) -> str:
        text = f"largest difference {self.absolute:.2g}, relative {self.relative:.2g}"
        if self.folded_error is None:
            return f"{text}; allowed {self.allowed:.2g}"
        return (
            f"{text}, in float64 {self.difference:.2g}; distance from float64: folded "
            f"{self.folded_error:.2g}, original {self.original_error:.2g}, "
            f"allowed {self.allowed:.2g}"
        )


@dataclass
class Folding:
    """What `gammabeta.fold` did; ``print`` shows it.

    Attributes:
        folded: norms that are now part of other layers, in the order they were folded.
        left: norms that are as they were, and why.
        proof: how far the outputs are apart on the example, or None without one.

    Example:
        >>> print(Folding([Folded(("bn",), "nn.BatchNorm2d", "conv", "nn.Conv2d", "before")]))
        1 norm folded, 0 left
        norm  was             is part of        leaves
        bn    nn.BatchNorm2d  conv (nn.Conv2d)  nn.Identity
    """

    folded: list[Folded] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    proof: Proof | None = None

    def __str__(self) -> str:
        number = len(self.folded)
        lines = [f"{number} norm{'' if number == 1 else 's'} folded, {len(self.left)} left"]
        if self.proof is not None:
            lines.append(str(self.proof))
        if self.folded:
            rows = [
                (
                    _names(one.names),
                    one.kind,
                    f"{one.into} ({one.host}{', new bias' if one.new_bias else ''})",
                    one.leaves,
                )
                for one in self.folded
            ]
            lines.append(table(("norm", "was", "is part of", "leaves"), rows, left=4))
        if self.left:
            left = [(_names(one.names), one.kind, one.reason) for one in self.left]
            lines.append(table(("left", "is", "because"), left, left=3))
        return "\n".join(lines)

    def summary(self) -> str:
        """What was left, in one line; empty if nothing was."""
        parts = [f"{_names(one.names)} ({one.kind}): {one.reason}" for one in self.left[:3]]
        if len(self.left) > 3:
            parts.append(f"and {len(self.left) - 3} more")
        return "; ".join(parts)


def _names(names: tuple[str, ...]) -> str:
    return " = ".join(name or "(model)" for name in names)


FoldReport = Callable[[Folding], object]
"""What a person gives to be called with what was folded."""
