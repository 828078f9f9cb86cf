"""Put one frame together: what was sampled becomes the numbers of a record.

The training's thread only collects samples and gives each its probe. `Draft.measure` computes the
numbers; the thread that writes the record calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gammabeta.signal.columns import Columns
from gammabeta.signal.parameters import Moved, Parameters, Running
from gammabeta.signal.record import Measured
from gammabeta.signal.rows import Row, Scale, Signal
from gammabeta.signal.sampling import array
from gammabeta.signal.summary import SATURATION, Sample, columns_of
from gammabeta.signal.transfer import send

CHANNELS = 192
"""Maximum number of channels whose values are kept one by one."""

Probe = Callable[[str, str, "str | None"], "int | None"]
"""(name of a row, stage, activation) → id; None for what is not wanted."""


_Entry = tuple[int, Signal, "tuple[float, float] | None", bool]
"""(probe, signal, zone of the activation that it enters, whether to look for dead units)"""


@dataclass(slots=True)
class _Vector:
    probe: int
    values: Tensor


@dataclass
class Draft:
    """The samples of one frame, each with its probe.

    Args:
        scale: what gradients are divided by: the loss scale of mixed precision.
        units: probe → what was seen of each unit so far, see `gammabeta.signal.summary.Sample`.
        by_channel: whether to keep the values of channels one by one.
        seconds: time that taking the samples has cost so far.
    """

    scale: Tensor | float = 1.0
    units: dict[int, NDArray[Any]] = field(default_factory=dict)
    by_channel: bool = True
    seconds: float = 0.0
    _signals: list[_Entry] = field(default_factory=list)
    _activated: list[tuple[int, int]] = field(default_factory=list)
    _normalized: list[tuple[int, Signal, Scale]] = field(default_factory=list)
    _weights: dict[str, tuple[int, Moved]] = field(default_factory=dict)
    _groups: list[list[str]] = field(default_factory=list)
    _vectors: list[_Vector] = field(default_factory=list)
    _running: list[tuple[int, int, Running]] = field(default_factory=list)
    _arrived: Callable[[], None] = lambda: None

    def add_rows(self, rows: Mapping[str, Row], probe: Probe) -> None:
        """Add the signals of a captured pass."""
        for row in rows.values():
            zone = SATURATION.get(row.activation or "")
            if zone is not None and {"activation", row.preactivation} <= row.signals.keys():
                after = probe(row.name, "activation", row.activation)
                before = probe(row.name, row.preactivation, row.activation)
                if after is not None and before is not None:
                    self._activated.append((after, before))
            for stage, signal in row.signals.items():
                number = probe(row.name, stage, row.activation)
                enters = stage in ("z", row.preactivation)
                if number is not None:
                    dead = stage == row.preactivation
                    self._signals.append((number, signal, zone if enters else None, dead))
                if stage == "affine" and row.scale and "normalized" not in row.signals:
                    number = probe(row.name, "normalized", row.activation)
                    if number is not None:
                        self._normalized.append((number, signal, row.scale))

    def add_parameters(self, found: Parameters, norms: Mapping[str, str], probe: Probe) -> None:
        """Add weights, γ and β, and running statistics.

        Args:
            found: the samples.
            norms: name of a norm's module → name of the row that it belongs to.
        """
        for name, moved in found.weights.items():
            number = probe(name, "weight", None)
            if number is not None and moved.after is not None:
                self._weights[name] = (number, moved)
        for (owner, stage), values in found.scales.items():
            number = probe(norms.get(owner, owner), stage, None)
            if number is not None:
                self._vectors.append(_Vector(number, values))
        for owner, running in found.running.items():
            if running.new_mean is None:
                continue
            row = norms.get(owner, owner)
            shift, ratio = probe(row, "mean_shift", None), probe(row, "var_ratio", None)
            if shift is not None and ratio is not None:
                self._running.append((shift, ratio, running))

    def add_groups(self, groups: list[list[str]]) -> None:
        """Ask for the norm and the update of groups of weights, by the names of their rows."""
        self._groups = groups

    def is_empty(self) -> bool:
        """Whether nothing was added."""
        return not (self._signals or self._normalized or self._weights or self._vectors)

    def send(self) -> None:
        """Begin to copy what is on an accelerator to the host, without waiting for it."""
        holders: list[tuple[Any, str]] = []
        for _, signal, *_ in self._signals:
            holders += [(signal, "sample"), (signal, "gradient")]
        for _, signal, affine in self._normalized:
            holders += [(signal, "sample"), (signal, "gradient")]
            holders += [(affine, "gamma"), (affine, "beta")]
        for _, moved in self._weights.values():
            holders += [(moved, "before"), (moved, "after"), (moved, "gradient")]
        for vector in self._vectors:
            holders.append((vector, "values"))
        for _, _, running in self._running:
            holders += [(running, name) for name in ("mean", "var", "new_mean", "new_var")]
        self._arrived = send(holders)

    def measure(self) -> Measured:
        """Compute the numbers of the frame."""
        self._arrived()
        samples: dict[int, Sample] = {}
        channels: dict[int, NDArray[Any]] = {}
        scale = 1 / (float(self.scale) or 1.0)
        for number, signal, zone, dead in self._signals:
            sample = Sample(array(signal.sample), signal.count, zone)
            if zone is not None:
                sample.features = signal.features()
                if dead:
                    empty = np.zeros(signal.units, dtype=np.int64)
                    sample.units = self.units.setdefault(number, empty)
                    if len(sample.units) != signal.units:
                        sample.units = self.units[number] = empty
            _add_gradient(sample, signal, scale)
            samples[number] = sample
        for number, signal, affine in self._normalized:
            x_hat = _normalized(signal, affine, scale)
            if x_hat is not None:
                samples[number] = x_hat
        for number, moved in self._weights.values():
            after = array(moved.after)
            sample = Sample(after, moved.count, before=array(moved.before), normed=True)
            if moved.gradient is not None:
                sample.gradient, sample.gradient_count = array(moved.gradient), moved.count
            samples[number] = sample
        for vector in self._vectors:
            _add_channels(samples, channels, vector.probe, array(vector.values))
        for shift, ratio, running in self._running:
            if np.array_equal(array(running.new_mean), array(running.mean)):
                continue  # the pass did not update them
            moved_mean, moved_var = _batch_against_running(running)
            _add_channels(samples, channels, shift, moved_mean)
            _add_channels(samples, channels, ratio, moved_var)
        columns = columns_of(list(samples), list(samples.values()))
        places = {number: i for i, number in enumerate(samples)}
        for output, entered in self._activated:  # an activation's output has its input's fractions
            for name in ("saturated", "dead"):
                columns.values[name][places[output]] = columns.values[name][places[entered]]
        return Measured(columns, channels if self.by_channel else {}, self._of_groups(columns))

    def _of_groups(self, columns: Columns) -> dict[str, float]:
        """Return the norm and the update ratio of each group of weights."""
        places = {number: i for i, number in enumerate(columns.probes.tolist())}
        found: dict[str, float] = {}
        for i, names in enumerate(self._groups):
            rows = [places[self._weights[name][0]] for name in names if name in self._weights]
            norms, updates = columns.values["norm"][rows], columns.values["update"][rows]
            norm = float(np.sqrt(np.square(norms).sum()))
            tail = f" {i}" if len(self._groups) > 1 else ""
            if norm > 0:
                found[f"weight norm{tail}"] = norm
                moved = float(np.sqrt(np.nansum(np.square(norms * updates))))
                found[f"update ratio{tail}"] = moved / norm
        return found


def _add_gradient(sample: Sample, signal: Signal, scale: float) -> None:
    if signal.gradient is not None:
        gradient = array(signal.gradient)
        sample.gradient = gradient if scale == 1.0 else gradient * scale
        sample.gradient_count = signal.gradient_count


def _normalized(signal: Signal, affine: Scale, scale: float) -> Sample | None:
    """Return x̂ = (y − β) / γ at the sampled places of y, and its gradient γ ∂loss/∂y.

    Features whose γ is 0 are left out; None if there are no others.
    """
    values = array(signal.sample)
    dtype = values.dtype
    gradient = None if signal.gradient is None else array(signal.gradient) * scale
    features = signal.features()
    if affine.beta is not None:
        values = values - array(affine.beta)[features]
    if affine.gamma is not None:
        gamma = array(affine.gamma)[features]
        told = np.abs(gamma) > _LEAST
        if not told.any():
            return None
        values = values[told] / gamma[told]
        if gradient is not None:
            gradient = gradient * array(affine.gamma)[signal.gradient_features()]
    sample = Sample(values.astype(dtype), signal.count)
    sample.gradient, sample.gradient_count = gradient, signal.gradient_count
    return sample


_LEAST = 1e-12


def _batch_against_running(running: Running) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return (μ_batch − μ_running) / σ_running and ln(σ²_batch / σ²_running), one a channel."""
    mean, var = array(running.mean), array(running.var)
    by_batch = (array(running.new_mean) - mean) / running.momentum
    variance = var + (array(running.new_var) - var) / running.momentum
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = by_batch / np.sqrt(var + running.eps)
        ratio = np.log(np.maximum(variance, 0) + running.eps) - np.log(var + running.eps)
    return shift.astype(np.float32), ratio.astype(np.float32)


def _add_channels(
    samples: dict[int, Sample], channels: dict[int, NDArray[Any]], number: int, values: NDArray[Any]
) -> None:
    samples[number] = Sample(values, len(values))
    every = -(-len(values) // CHANNELS)
    channels[number] = values[:: max(1, every)]
