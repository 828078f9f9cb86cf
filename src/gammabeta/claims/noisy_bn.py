"""Batch norm with its distributions shifted at random still trains; so is it about steadiness?"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gammabeta.claims.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.claims.context import Context
from gammabeta.claims.figure import COOL, MUTED, OLIVE, PLUM, WARM, label, sheet
from gammabeta.claims.fit import LAST_SHARE, fit, recorded
from gammabeta.measures import noisy
from gammabeta.models import Stack

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
MATCHED = 0.1
RATES, QUICK_RATES = (0.03, 0.1, 0.3), (0.1, 0.3)
DEPTH, WIDTH, BATCH = 12, 64, 128
STEPS, QUICK_STEPS = 4000, 700
TRAINS, FAILS, NEAR = 0.7, 0.4, 0.1


def run(context: Context) -> Outcome:
    """Train the four arms at every rate, and compare how well each fits its mini-batches."""
    rates = QUICK_RATES if context.quick else RATES
    context.plan(len(ARMS) * len(rates) * len(context.seeds))
    kept = {
        (arm, rate): [_arm(context, arm, rate, seed) for seed in context.seeds]
        for arm in ARMS
        for rate in rates
    }

    def number(arm: str, rate: float, how: str) -> Number:
        values = [result["training_accuracy"] for result in kept[arm, rate]]
        return Number.over(f"training accuracy, {arm}, {how}", values, "%")

    matched = {arm: number(arm, MATCHED, f"rate {MATCHED:g}") for arm in ARMS}
    best_rates = {
        arm: max(rates, key=lambda rate, arm=arm: number(arm, rate, "").value) for arm in ARMS
    }
    best = {arm: number(arm, rate, f"its best rate {rate:g}") for arm, rate in best_rates.items()}
    held = [_holds(found) for found in (matched, best)]
    verdict = HOLDS if all(held) else UNDER_THIS_PROTOCOL if any(held) else DOES_NOT_HOLD
    order = ("with batch norm, noise", "without, noise", "with batch norm", "without")
    motion = [
        Number.over(
            f"motion of a unit's mean, {arm}, rate {MATCHED:g}",
            [result["motion"] for result in kept[arm, MATCHED]],
            "σ",
        )
        for arm in order
    ]
    noise, plain = best["with batch norm, noise"], best["without, noise"]
    because = (
        f"with the noise, each at its best rate: {noise.text()} of training images right with "
        f"batch norm, {plain.text()} without; at rate {MATCHED:g}: "
        f"{matched['with batch norm, noise'].text()} and {matched['without, noise'].text()}"
    )
    numbers = [*(best[arm] for arm in order), *(matched[arm] for arm in order), *motion]
    return Outcome(numbers, verdict, because, [_draw(context, kept, best_rates)])


def _holds(found: dict[str, Number]) -> bool:
    """The criterion, at one choice of rates."""
    noise = found["with batch norm, noise"].value
    return (
        noise >= TRAINS
        and found["with batch norm"].value - noise <= NEAR
        and found["without"].value >= TRAINS
        and found["without, noise"].value <= FAILS
    )


def _arm(context: Context, arm: str, rate: float, seed: int) -> dict[str, Any]:
    steps = context.steps(STEPS, QUICK_STEPS)
    norm, with_noise = ARMS[arm]

    def train() -> dict[str, Any]:
        data = context.images()
        model = Stack(
            data.train_x.shape[1],
            data.classes,
            depth=DEPTH,
            width=WIDTH,
            activation="relu",
            norm=norm,
            seed=seed,
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        means: list[Tensor] = []
        late = steps - max(2, round(LAST_SHARE * steps))

        def entering(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            """What enters the last ReLU: its unit means, over their deviation within the batch."""
            if module.training:
                x = args[0].detach()
                means.append(x.mean(0) / x.std(0).mean().clamp(min=1e-12))
                del means[: -(steps - late)]

        with ExitStack() as stack:
            handle = model.layers[-1].activation.register_forward_pre_hook(entering)  # type: ignore[union-attr]
            stack.callback(handle.remove)
            if with_noise:
                places = [f"layers.{index}.norm" for index in range(DEPTH)]
                stack.enter_context(noisy(model, places, seed=seed))
            name = f"{arm}, rate {rate:g}"
            signal = stack.enter_context(recorded(context, name, model, seed, steps))
            found = fit(
                model,
                optimizer,
                data,
                steps=steps,
                batch_size=BATCH,
                seed=seed,
                signal=signal,
                context=context,
            )
        moving = torch.stack(means).std(0).median().item() if len(means) > 1 else float("nan")
        hits = np.array(found.hits)
        window = max(1, len(hits) // 40)
        curve = [float(part.mean()) for part in np.array_split(hits, max(1, len(hits) // window))]
        return {**found.kept(), "motion": moving, "curve": curve}

    return context.run({"arm": arm, "rate": rate, "seed": seed, "steps": steps}, train)


def _draw(
    context: Context,
    kept: dict[tuple[str, float], list[dict[str, Any]]],
    best_rates: dict[str, float],
) -> Path:
    path = context.figure("training")
    describe = (
        "Training accuracy over steps of four networks: with and without batch norm, with and "
        "without noise that shifts every unit at every step; each at its best rate."
    )
    steps = context.steps(STEPS, QUICK_STEPS)
    with sheet(path, describe, panel=(6.4, 3.4)) as drawn:
        axes = drawn.panels[0]
        ends = []
        for arm, colour in COLOURS.items():
            results = kept[arm, best_rates[arm]]
            length = min(len(result["curve"]) for result in results)
            curves = np.array([result["curve"][:length] for result in results])
            at = (np.arange(length) + 0.5) * steps / max(length, 1)
            axes.plot(at, np.median(curves, 0), color=colour)
            axes.fill_between(
                at, curves.min(0), curves.max(0), color=colour, alpha=0.15, linewidth=0
            )
            ends.append((float(np.median(curves, 0)[-1]), float(at[-1]), arm, colour))
        axes.axhline(0.1, color=MUTED, linewidth=0.7, linestyle=":")
        place = -1.0
        for value, at_end, arm, colour in sorted(ends):
            place = max(value, place + 0.06)  # apart, so that no name covers another
            label(axes, at_end, place, f"{arm} ({best_rates[arm]:g})", colour)
        axes.set_ylim(0, 1)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        axes.set_xlabel("step")
        axes.set_ylabel("training images right")
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
        f"{DEPTH} fully connected ReLU layers of {WIDTH} (Glorot; deep enough that the signal of "
        "the plain network is weak at its end) on Fashion-MNIST, plain SGD, batch "
        f"{BATCH}, {STEPS:,} steps, 3 seeds. Four arms: with and without batch norm, each with and "
        "without noise between norm (or linear) and ReLU of every layer: per unit and step μ ~ "
        "U(−0.5, 0.5), σ ~ U(1, 1.25), per example m ~ U(μ ± 0.1), s ~ N(σ, 0.1), a ← s·a + m. "
        f"Rates {', '.join(f'{rate:g}' for rate in RATES)}; reported at the matched rate "
        f"{MATCHED:g} and at each arm's own best. The number is the share of training images "
        f"right, noise on, over the last {100 * LAST_SHARE:.0f}% of the steps: the paper's figure "
        "shows training too. Motion is the standard deviation over those steps of a unit's batch "
        "mean before the last ReLU, in units of the spread within a batch, median over units. "
        f"--quick: rates {' and '.join(f'{rate:g}' for rate in QUICK_RATES)}, {QUICK_STEPS} steps."
    ),
    criterion=(
        f"At a choice of rates: batch norm with noise reaches {100 * TRAINS:.0f}% and is within "
        f"{100 * NEAR:.0f} points of batch norm without; the plain network reaches "
        f"{100 * TRAINS:.0f}% without noise, and with it stays at {100 * FAILS:.0f}% or below "
        "(medians over seeds). Holds: at the matched rate and at each arm's own best; holds under "
        "this protocol: at one of them; does not hold here: at neither."
    ),
    paper="noisy BN trains as BN does; the standard net with the same noise cannot be trained",
    minutes_quick=1.4,
    minutes_full=12,
    run=run,
)
