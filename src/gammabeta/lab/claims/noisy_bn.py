"""Batch norm with its distributions shifted at random still trains; so is it about steadiness?"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import (
    COOL,
    MUTED,
    OLIVE,
    PLUM,
    WARM,
    band,
    labels,
    sheet,
)
from gammabeta.lab.claims.framework.fit import LAST_SHARE, fit, recorded
from gammabeta.lab.claims.framework.noisy_nets import SETTINGS, Setting
from gammabeta.lab.measures import noisy

ARMS = {
    "without": ("none", False),
    "with batch norm": ("batch", False),
    "without, noise": ("none", True),
    "with batch norm, noise": ("batch", True),
}
COLOURS = {
    "without": PLUM,
    "with batch norm": OLIVE,
    "without, noise": WARM,
    "with batch norm, noise": COOL,
}
TRAINS, FAILS, NEAR = 0.7, 0.4, 0.1


def run(context: Context) -> Outcome:
    """Train the four arms of each setting, and compare how well each fits its mini-batches."""
    rates = {s: s.quick_rates if context.quick else s.rates for s in SETTINGS}
    context.plan(len(ARMS) * sum(map(len, rates.values())) * len(context.seeds))
    numbers: list[Number] = []
    details: list[Number] = []
    held, at_best, reasons, notes, figures = [], [], [], [], []
    for setting in SETTINGS:
        kept = {
            (arm, rate): [_arm(context, setting, arm, rate, seed) for seed in context.seeds]
            for arm in ARMS
            for rate in rates[setting]
        }
        matched = {arm: _number(kept, setting, arm, setting.matched) for arm in ARMS}
        best = {
            arm: max(
                (_number(kept, setting, arm, rate) for rate in rates[setting]),
                key=lambda number: number.value,
            )
            for arm in ARMS
        }
        for rate in rates[setting]:
            alike = {arm: _number(kept, setting, arm, rate) for arm in ARMS}
            if rate != setting.matched and _holds(alike):
                told = {arm: number.text() for arm, number in alike.items()}
                notes.append(
                    f"Reported, not scored: {setting.name}, all arms at rate {rate:g}. Noise stops "
                    f"the plain network ({told['without']} of training images right without noise, "
                    f"{told['without, noise']} with noise) and not the one with batch norm "
                    f"({told['with batch norm, noise']} with noise)."
                )
        at_best.append(_holds(best))
        held += [_holds(matched), at_best[-1]]
        noise, plain = best["with batch norm, noise"], best["without, noise"]
        reasons.append(
            f"{setting.name}, noise on, each arm at its best rate: {noise.text()} of training "
            f"images right with batch norm, {plain.text()} without"
            + ("" if _holds(best) == _holds(matched) else "; otherwise at the matched rate")
        )
        numbers += [found[arm] for found in (best, matched) for arm in reversed(ARMS)]
        details += [
            Number.over(
                f"motion of a unit's mean, {arm}, {setting.name}, rate {setting.matched:g}",
                [result["motion"] for result in kept[arm, setting.matched]],
                "σ",
            )
            for arm in reversed(ARMS)
        ]
        figures.append(_draw(context, setting, kept))
    once = list(dict.fromkeys([*numbers, *details]))  # the best rate may be the matched one
    headline = (
        f"{sum(at_best)} of {len(SETTINGS)} networks: noise stops the plain one and not the one "
        "with batch norm, each arm at its best rate"
    )
    return Outcome(once, verdict(held), "; ".join(reasons), figures, notes, headline)


Kept = dict[tuple[str, float], list[dict[str, Any]]]


def _number(kept: Kept, setting: Setting, arm: str, rate: float) -> Number:
    values = [result["training_accuracy"] for result in kept[arm, rate]]
    label = f"training accuracy, {arm}, {setting.name}, rate {rate:g}"
    return Number.over(label, values, "%")


def _holds(found: dict[str, Number]) -> bool:
    """The criterion, at one choice of rates."""
    noise = found["with batch norm, noise"].value
    return (
        noise >= TRAINS
        and found["with batch norm"].value - noise <= NEAR
        and found["without"].value >= TRAINS
        and found["without, noise"].value <= FAILS
    )


def _arm(context: Context, setting: Setting, arm: str, rate: float, seed: int) -> dict[str, Any]:
    steps = context.steps(setting.steps, setting.quick_steps)
    norm, with_noise = ARMS[arm]

    def train() -> dict[str, Any]:
        data = context.images()
        net = setting.build(data, norm, seed)
        optimizer = torch.optim.SGD(net.model.parameters(), lr=rate)
        means: list[Tensor] = []
        late = steps - max(2, round(LAST_SHARE * steps))

        def entering(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            """What enters the last activation: its units' means over their spread in the batch."""
            if module.training:
                x = args[0].detach().transpose(0, 1).flatten(1)  # units (or maps), values
                means.append(x.mean(1) / x.std(1).mean().clamp(min=1e-12))
                del means[: -(steps - late)]

        with ExitStack() as stack:
            handle = net.last.register_forward_pre_hook(entering)
            stack.callback(handle.remove)
            if with_noise:
                stack.enter_context(noisy(net.model, net.places, seed=seed))
            name = f"{arm}, {setting.name}, rate {rate:g}"
            wanted = rate == setting.matched
            signal = stack.enter_context(recorded(context, name, net.model, seed, steps, wanted))
            found = fit(
                net.model,
                optimizer,
                data,
                steps=steps,
                batch_size=setting.batch,
                seed=seed,
                signal=signal,
                context=context,
            )
        moving = torch.stack(means).std(0).median().item() if len(means) > 1 else float("nan")
        hits = np.array(found.hits)
        window = max(1, len(hits) // 40)
        curve = [float(part.mean()) for part in np.array_split(hits, max(1, len(hits) // window))]
        return {**found.kept(), "motion": moving, "curve": curve}

    key = {"net": setting.name, "arm": arm, "rate": rate, "seed": seed, "steps": steps}
    return context.run(key, train)


def _draw(context: Context, setting: Setting, kept: Kept) -> Path:
    path = context.figure(setting.key)
    describe = (
        f"Training accuracy over steps of {setting.name}: with and without batch norm, with and "
        f"without noise that shifts every unit at every step, at rate {setting.matched:g}."
    )
    steps = context.steps(setting.steps, setting.quick_steps)
    with sheet(path, describe, panel=(6.4, 3.4)) as drawn:
        axes = drawn.panels[0]
        ends = []
        for arm, colour in COLOURS.items():
            results = kept[arm, setting.matched]
            length = min(len(result["curve"]) for result in results)
            curves = np.array([result["curve"][:length] for result in results])
            at = (np.arange(length) + 0.5) * steps / max(length, 1)
            ends.append(band(axes, at, curves, colour, arm))
        axes.axhline(0.1, color=MUTED, linewidth=0.7, linestyle=":")
        axes.set_ylim(0, 1)
        axes.set_title(f"{setting.name}, rate {setting.matched:g}")
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("step")
        axes.set_ylabel("training images right")
        labels(axes, ends)
    return path


CLAIM = Claim(
    name="noisy-bn",
    title="Noisy batch norm",
    statement=(
        "With batch normalization a network trains even when noise shifts every unit's "
        "distribution at every step; the same noise stops the network without it. So steady "
        "distributions are not why batch norm works."
    ),
    source="Santurkar et al. 2018, arXiv:1805.11604, section 2.2 and figure 2",
    protocol=(
        "Networks (Glorot, but for the last) on Fashion-MNIST, plain SGD, 3 seeds. Four arms: with "
        "and without batch norm, each with and without noise between norm (or linear layer) and "
        "activation of every layer: per unit and step μ ~ U(−0.5, 0.5), σ ~ U(1, 1.25), per "
        "example m ~ U(μ ± 0.1), s ~ N(σ, 0.1), a ← s·a + m. "
        + " ".join(
            f"{s.name} {s.size}: batch {s.batch}, {s.steps:,} steps, rates "
            f"{', '.join(f'{rate:g}' for rate in s.rates)}, of which {s.matched:g} is the matched "
            f"one (--quick: {s.quick_steps:,} steps, rates "
            f"{', '.join(f'{rate:g}' for rate in s.quick_rates)})."
            for s in SETTINGS
        )
        + " The ReLU network was written and run first, and the claim did not hold there; the "
        "sigmoid network was written after that, the convolutional one after both. It does not "
        "train without batch norm even in peace, so that noise had nothing to stop: the last "
        "network, with weights that keep the signal's size, was written after it. Each came before "
        "its own runs. The number is the share "
        f"of training images right, noise on, over the last {100 * LAST_SHARE:.0f}% of the steps: "
        "the paper's figure shows training too. Motion is the standard deviation over those steps "
        "of a unit's batch mean before the last activation, in units of the spread within a batch, "
        "median over units."
    ),
    criterion=(
        f"At a choice of rates: batch norm with noise reaches {100 * TRAINS:.0f}% and is within "
        f"{100 * NEAR:.0f} points of batch norm without; the plain network reaches "
        f"{100 * TRAINS:.0f}% without noise, and with it stays at {100 * FAILS:.0f}% or below "
        "(medians over seeds). Holds: in every network, at the matched rate and at each arm's own "
        "best; holds under this protocol: in some of these; does not hold here: in none."
    ),
    paper="noisy BN trains as BN does; the standard net with the same noise cannot be trained",
    minutes_quick=4,
    minutes_full=45,
    run=run,
    version=3,
)
