"""The score board that ends a demonstration, made from the record alone."""

from __future__ import annotations

import math
from collections.abc import Iterable

from rich import box
from rich.table import Table

from gammabeta.signal.recorded import Scalar
from gammabeta.signal.run import Run

NONE = "–"


def outcome(run: Run, batch_accuracy: dict[str, float]) -> Table:
    """How each arm fared, a column an arm.

    Args:
        run: the recorded run.
        batch_accuracy: arm → test accuracy with mini-batch statistics; a row if there is any.
    """
    arms = run.arms()
    scalars = run.scalars()
    table = _table("")
    for name in arms.values():
        table.add_column(name, justify="right")
    accuracy = {arm: _curve(scalars, arm, "accuracy") for arm in arms}
    loss = {arm: _curve(scalars, arm, "loss") for arm in arms}
    table.add_row("test accuracy", *(_percent(_last(accuracy[arm])) for arm in arms))
    if batch_accuracy:
        table.add_row(
            "  with mini-batch statistics",
            *(_percent(batch_accuracy.get(name)) for name in arms.values()),
        )
    for goal in (0.90, 0.95):
        first = (next((step for step, a in accuracy[arm] if a >= goal), None) for arm in arms)
        table.add_row(f"steps to {goal:.0%}", *(NONE if s is None else str(s) for s in first))
    table.add_row("last training loss", *(_loss(loss[arm]) for arm in arms))
    return table


def layers(run: Run) -> Table:
    """Saturation of each layer in each arm, and mean and std of x̂, at each arm's last frame."""
    arms = run.arms()
    last = {frame.arm: frame for frame in run.frames()}
    found = {
        (probe.arm, probe.layer, probe.stage): last[probe.arm].signals.get(probe.id)
        for probe in run.probes()
        if probe.arm in last
    }
    normalized = sorted({arm for arm, _, stage in found if stage == "normalized"})
    table = _table("layer")
    for name in arms.values():
        table.add_column(f"saturated {name}", justify="right")
    for arm in normalized:
        table.add_column(f"x̂ {arms[arm]}", justify="right")
    for layer in sorted({layer for _, layer, _ in found}, reverse=True):
        row = []
        for arm in arms:
            signal = found.get((arm, layer, "affine")) or found.get((arm, layer, "z"))
            row.append(_percent(signal.saturated if signal else None))
        for arm in normalized:
            x_hat = found.get((arm, layer, "normalized"))
            row.append(f"{_short(x_hat.mean)} ± {_short(x_hat.std)}" if x_hat else NONE)
        table.add_row(str(layer), *row)
    return table


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first)
    return table


def _curve(scalars: Iterable[Scalar], arm: int, name: str) -> list[tuple[int, float]]:
    return [(s.step, s.value) for s in scalars if s.arm == arm and s.name == name]


def _last(curve: list[tuple[int, float]]) -> float | None:
    return curve[-1][1] if curve else None


def _percent(fraction: float | None) -> str:
    return NONE if fraction is None or math.isnan(fraction) else f"{fraction:.1%}"


def _short(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}" if abs(value) < 1000 else f"{value:.3g}"  # no −0.000


def _loss(curve: list[tuple[int, float]]) -> str:
    if not curve:
        return NONE
    step, value = curve[-1]
    return f"{value:.4g}" if math.isfinite(value) else f"not finite at step {step}"
