"""Does batch normalization reduce internal covariate shift, as gradients feel it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import COOL, WARM, band, labels, sheet
from gammabeta.lab.claims.framework.fit import fit, side_of
from gammabeta.lab.measures import CovariateShift, covariate_shift
from gammabeta.lab.models.vgg import SmallVGG
from gammabeta.lab.train.step import take_step
from gammabeta.layers import BatchNorm1d

ARMS = ("without", "with batch norm")
COLOURS = {"without": WARM, "with batch norm": COOL}
SETTINGS = ("VGG, rate 0.1", "VGG, rate 0.01", "deep linear, rate 1e-06")
RATES = (0.1, 0.01, 1e-6)
BATCH = 128
STEPS, QUICK_STEPS = 1000, 80
LINEAR_STEPS, QUICK_LINEAR_STEPS = 10_000, 1000
MEASURES = 40
QUICK_MEASURES = 10
LINEAR_DEPTH, LINEAR_WIDTH, LINEAR_EXAMPLES = 25, 10, 1000


def run(context: Context) -> Outcome:
    """Train both arms of each setting, and compare cosines and relative distances."""
    context.plan(len(ARMS) * len(SETTINGS) * len(context.seeds))
    kept = {
        (setting, arm): [_arm(context, setting, arm, seed) for seed in context.seeds]
        for setting in range(len(SETTINGS))
        for arm in ARMS
    }
    numbers, reduced, weak = [], [], []
    for setting, words in enumerate(SETTINGS):
        found, spans = {}, {}
        for measure in ("cosine", "distance"):
            for arm in ARMS:
                values = [float(np.nanmedian(r[measure])) for r in kept[setting, arm]]
                name = "cosine of G and G′" if measure == "cosine" else "‖G − G′‖ / ‖G‖"
                number = Number.over(f"{name}, {words}, {arm}", values)
                numbers.append(number)
                found[measure, arm] = number.value
                spans[measure, arm] = number
        closer = found["cosine", ARMS[1]] > found["cosine", ARMS[0]]
        if closer and found["distance", ARMS[1]] < found["distance", ARMS[0]]:
            reduced.append(words)
            if any(
                min(spans[measure, arm].high for arm in ARMS)
                >= max(spans[measure, arm].low for arm in ARMS)
                for measure in ("cosine", "distance")
            ):
                weak.append(words)
    held = [words in reduced for words in SETTINGS]
    because = (
        "with batch norm the cosine is higher and the relative distance smaller in "
        f"{len(reduced)} of {len(SETTINGS)} settings" + (f" ({'; '.join(reduced)})" * bool(reduced))
    )
    if weak:
        because += f"; by less than the spread over seeds in: {'; '.join(weak)}"
    without, with_norm, *_ = numbers
    what = without.label.removesuffix(f", {ARMS[0]}")
    headline = (
        f"{without.text()} without, {with_norm.text()} with: {what}; G and G′ "
        f"nearer with batch norm in {len(reduced)} of {len(SETTINGS)} settings"
    )
    figure = _draw(context, kept)
    return Outcome(numbers, verdict(held), because, [figure], notes=[_NOTE], headline=headline)


def _arm(context: Context, setting: int, arm: str, seed: int) -> dict[str, Any]:
    linear = SETTINGS[setting].startswith("deep linear")
    steps = (
        context.steps(LINEAR_STEPS, QUICK_LINEAR_STEPS)
        if linear
        else context.steps(STEPS, QUICK_STEPS)
    )
    every = max(1, steps // (QUICK_MEASURES if context.quick else MEASURES))
    train = _deep_linear if linear else _vgg
    return context.run(
        {"setting": SETTINGS[setting], "arm": arm, "seed": seed, "steps": steps, "every": every},
        lambda: train(context, arm == ARMS[1], RATES[setting], seed, steps, every),
    )


def _row(shift: CovariateShift) -> tuple[float, float]:
    """Medians over the layers but the first, of cosine and relative distance."""
    above = [layer for layer in shift.layers[1:] if layer.before > 0]
    if not above:
        return float("nan"), float("nan")
    cosines = [layer.cosine for layer in above]
    return float(np.median(cosines)), float(np.median([x.distance / x.before for x in above]))


def _vgg(
    context: Context, norm: bool, rate: float, seed: int, steps: int, every: int
) -> dict[str, Any]:
    data = context.images()
    side, pool = side_of(data)
    model = SmallVGG(side, data.classes, norm="batch" if norm else "none", pool=pool, seed=seed)
    at, rows = [], []

    def measure(step: int, x: Tensor, y: Tensor) -> None:
        if step % every == 1 or every == 1:
            at.append(step)
            rows.append(_row(covariate_shift(model, F.cross_entropy, (x, y), lr=rate)))

    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    found = fit(
        model,
        optimizer,
        data,
        steps=steps,
        batch_size=BATCH,
        seed=seed,
        before=measure,
        context=context,
    )
    cosine, distance = zip(*rows, strict=True)
    return {**found.kept(), "at": at, "cosine": cosine, "distance": distance}


def deep_linear(norm: bool, seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Return the paper's deep linear net, 25 layers 10 × 10, its inputs x and its targets Ax."""
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential()
    for index in range(LINEAR_DEPTH):
        layer: nn.Linear = nn.utils.skip_init(  # type: ignore[no-untyped-call]
            nn.Linear, LINEAR_WIDTH, LINEAR_WIDTH, bias=False
        )
        with torch.no_grad():
            nn.init.xavier_normal_(layer.weight, generator=generator)
        model.append(layer)
        if norm and index < LINEAR_DEPTH - 1:  # the last one must reach any target
            model.append(BatchNorm1d(LINEAR_WIDTH))
    a = torch.randn(LINEAR_WIDTH, LINEAR_WIDTH, generator=generator)
    x = torch.randn(LINEAR_EXAMPLES, LINEAR_WIDTH, generator=generator)
    return model, x, x @ a.T


def _squares(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().sum()


def _deep_linear(
    context: Context, norm: bool, rate: float, seed: int, steps: int, every: int
) -> dict[str, Any]:
    model, x, target = deep_linear(norm, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    at, rows, losses = [], [], []
    for step in range(1, steps + 1):
        if step % every == 1 or every == 1:
            at.append(step)
            rows.append(_row(covariate_shift(model, _squares, (x, target), lr=rate)))
        loss, _ = take_step(model, optimizer, x, target, loss=_squares)
        if step % every == 0:
            losses.append(loss.item() / LINEAR_EXAMPLES)
            context.progress.within(step / steps)
    cosine, distance = zip(*rows, strict=True)
    return {"at": at, "cosine": cosine, "distance": distance, "losses": losses, "every": every}


def _draw(context: Context, kept: dict[tuple[int, str], list[dict[str, Any]]]) -> Path:
    path = context.figure("shift")
    describe = (
        "Cosine of the gradients before and after the layers below were updated, and their "
        "distance over the length of the first, during training, without and with batch norm."
    )
    with sheet(path, describe, columns=len(SETTINGS), rows=2) as drawn:
        for column, words in enumerate(SETTINGS):
            for row, measure in enumerate(("cosine", "distance")):
                axes = drawn.panels[row * len(SETTINGS) + column]
                ends = []
                for arm, colour in COLOURS.items():
                    results = kept[column, arm]
                    length = min(len(result["at"]) for result in results)
                    at = results[0]["at"][:length]
                    values = np.array([result[measure][:length] for result in results], float)
                    ends.append(band(axes, at, values, colour, arm))
                if row == 0:
                    axes.set_title(words)
                    axes.set_ylim(min(0.0, axes.get_ylim()[0]), 1.05)
                else:
                    axes.set_yscale("log")
                    axes.set_xlabel("step")
                if column == len(SETTINGS) - 1:
                    labels(axes, ends)
                if column == 0:
                    axes.set_ylabel("cosine of G and G′" if row == 0 else "‖G − G′‖ / ‖G‖")
    return path


_NOTE = (
    "The distance is divided by ‖G‖ because batch norm changes the gradients' length; the paper "
    "shows it undivided beside the cosine."
)

CLAIM = Claim(
    name="covariate-shift",
    title="Internal covariate shift",
    statement=(
        "Batch normalization reduces internal covariate shift: with it, a layer's gradient changes "
        "less when the layers below are updated."
    ),
    source=(
        "The statement: Ioffe & Szegedy 2015, section 1. Its test: Santurkar et al. 2018, "
        "arXiv:1805.11604, definition 2.1 and figure 3, who found that it does not"
    ),
    protocol=(
        "G is a layer's gradient, G′ its gradient for the same batch with all layers below already "
        "updated; their cosine and ‖G − G′‖ / ‖G‖, medians over the layers but the first, "
        f"{MEASURES} times a run, before a step. Three settings, each with and without batch norm, "
        "3 seeds: a VGG-like net of 4 convolutions (16, 16, 32, 32 maps; images averaged to 14 × "
        f"14; Glorot) on Fashion-MNIST, plain SGD, batch {BATCH}, {STEPS} steps at rate 0.1 and at "
        f"0.01; and the paper's deep linear net, {LINEAR_DEPTH} layers 10 × 10 (Glorot, no biases; "
        "batch norm after each but the last), x Gaussian, target Ax with A Gaussian, "
        f"{LINEAR_EXAMPLES:,} examples as one batch, {LINEAR_STEPS:,} steps at 1e-6 on the summed "
        f"squared error. Each run gives the median over its measured steps. --quick: {QUICK_STEPS} "
        f"and {QUICK_LINEAR_STEPS:,} steps, measured {QUICK_MEASURES} times."
    ),
    criterion=(
        "Reduced in a setting: with batch norm the median cosine over seeds is higher and the "
        "median relative distance smaller. Holds: reduced in all three settings; holds under this "
        "protocol: in some; does not hold here: in none."
    ),
    paper="not reduced; cosine near 0 in the deep linear net with BN",
    minutes_quick=1.2,
    minutes_full=9,
    run=run,
)
