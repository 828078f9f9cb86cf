"""What a calibration changed, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from gammabeta.table import table

_HEADS = (
    "layer",
    "batches",
    "values",
    "mean shift, rms",
    "max",
    "var ratio, median",
    "min",
    "max",
)


@dataclass(frozen=True, eq=False)
class LayerChange:
    """A batch norm's statistics before and after; all tensors (C,), float64, on the CPU.

    Attributes:
        name: of the layer in the model.
        batches: mini-batches it was measured on.
        values: values of a channel in all of them.
        mean_before, var_before: its running statistics before.
        mean, var: the estimates; the layer has them in its own dtype.
        eps: ε of the layer.
    """

    name: str
    batches: int
    values: int
    mean_before: Tensor
    var_before: Tensor
    mean: Tensor
    var: Tensor
    eps: float

    @property
    def mean_shift(self) -> Tensor:
        """(new mean − old mean) / σ, with the σ = √(old variance + ε) the layer divided by."""
        return (self.mean - self.mean_before) / (self.var_before + self.eps).sqrt()

    @property
    def var_ratio(self) -> Tensor:
        """(new variance + ε) / (old variance + ε)."""
        return (self.var + self.eps) / (self.var_before + self.eps)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What `gammabeta.calibrate` did; ``print`` shows it.

    Attributes:
        method: the estimator's name.
        batches: batches used.
        skipped: indices, from 0, of the batches left out.
        layers: by name, what changed.
        kept: names of the layers whose running statistics were left alone.
        small: those of ``skipped`` that gave a layer one value per channel; the others gave one a
            NaN or an infinity.
        reasons: why each of ``kept`` was left alone.
        untracked: names of the batch norms without running statistics: they normalize by the batch
            in evaluation too.
    """

    method: str
    batches: int
    skipped: tuple[int, ...]
    layers: Mapping[str, LayerChange]
    kept: tuple[str, ...]
    small: tuple[int, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)
    untracked: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{self.method} on {_count(self.batches, 'batch', 'es')}: running statistics of "
            f"{_count(len(self.layers), 'batch norm', 's')} set"
        ]
        rows = []
        for change in self.layers.values():
            shift, ratio = change.mean_shift, change.var_ratio
            rows.append(
                [
                    _name(change.name),
                    f"{change.batches:,}",
                    f"{change.values:,}",
                    f"{shift.square().mean().sqrt().item():.2f} σ",
                    f"{shift.abs().max().item():.2f} σ",
                    _ratio(ratio.median().item()),
                    _ratio(ratio.min().item()),
                    _ratio(ratio.max().item()),
                ]
            )
        lines.append(table(_HEADS, rows))
        if self.untracked:
            lines.append(f"without running statistics: {', '.join(map(_name, self.untracked))}")
        nonfinite = [index for index in self.skipped if index not in self.small]
        for why, indices in (("not finite", nonfinite), ("one value per channel", self.small)):
            if indices:
                numbers = ", ".join(str(index + 1) for index in indices)
                lines.append(f"skipped, {why}: batch {numbers}")
        if self.kept:
            kept = [
                _name(name) + (f" ({self.reasons[name]})" if name in self.reasons else "")
                for name in self.kept
            ]
            lines.append(f"left alone: {', '.join(kept)}")
        return "\n".join(lines)


def _name(name: str) -> str:
    return name or "(model)"


def _ratio(value: float) -> str:
    """Three digits that count, whatever the size."""
    return f"×{value:#.3g}"


def _count(number: int, noun: str, ending: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else ending}"
