"""Which normalization a transformer needs: layer norm, RMS, batch norm, dynamic tanh, none."""

from __future__ import annotations

from typing import Any

import torch

from gammabeta.lab.claims.framework.accuracy_figure import draw
from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import COOL, INK, OLIVE, PLUM, WARM
from gammabeta.lab.claims.framework.fit import fit, recorded, spaced
from gammabeta.lab.models.transformer import PatchTransformer

NORMS = {
    "layer": "layer norm",
    "rms": "RMS norm",
    "dyt": "dynamic tanh",
    "batch": "batch norm",
    "none": "no norm",
}
COLOURS = {"layer": INK, "rms": PLUM, "dyt": OLIVE, "batch": COOL, "none": WARM}
RATES, QUICK_RATES = (1e-3, 4e-3, 1.6e-2), (1e-3, 4e-3)
MATCHED = 4e-3
WIDTH, DEPTH, HEADS, BATCH = 48, 3, 4, 64
STEPS, QUICK_STEPS = 1200, 110
CLOSE = 0.01
POINTS, QUICK_POINTS = 12, 5


def run(context: Context) -> Outcome:
    """Train every transformer at every rate, and compare test accuracies."""
    rates = QUICK_RATES if context.quick else RATES
    context.plan(len(NORMS) * len(rates) * len(context.seeds))
    kept = {
        (norm, rate): [_arm(context, norm, rate, seed) for seed in context.seeds]
        for norm in NORMS
        for rate in rates
    }

    def final(norm: str, rate: float, how: str) -> Number:
        finals = [result["final"] for result in kept[norm, rate]]
        return Number.over(f"test accuracy, {NORMS[norm]}, {how}", finals, "%")

    own = {norm: max(rates, key=lambda r, n=norm: final(n, r, "").value) for norm in NORMS}
    choices = {
        f"rate {MATCHED:g}": dict.fromkeys(NORMS, MATCHED),
        "own best rate": own,
    }
    numbers: list[Number] = []
    held, reasons, headline = [], [], ""
    for words, chosen in choices.items():
        at_rate = words.startswith("rate")
        found = {
            norm: final(norm, chosen[norm], words if at_rate else f"{words} {chosen[norm]:g}")
            for norm in NORMS
        }
        numbers += found.values()
        value = {norm: number.value for norm, number in found.items()}
        as_good = all(abs(value[norm] - value["layer"]) <= CLOSE for norm in ("rms", "dyt"))
        worse = all(value[norm] < value["layer"] - CLOSE for norm in ("batch", "none"))
        held.append(as_good and worse)
        against = {
            NORMS[norm]: f"{100 * (value[norm] - value['layer']):+.1f}".replace("-", "−")
            for norm in NORMS
            if norm != "layer"
        }
        said = ", ".join(f"{name} {points}" for name, points in against.items())
        reasons.append(f"{words}: against layer norm {said} points")
        headline = headline or (
            f"{', '.join(against.values())} points: {', '.join(against)} against layer norm, "
            f"{words}"
        )
    figure = draw(
        context.figure("accuracy"),
        "Test accuracy over steps of a small transformer with five kinds of normalization, at one "
        "rate and each at its own best.",
        kept,
        choices,
        {norm: (NORMS[norm], colour) for norm, colour in COLOURS.items()},
        scale="log",
    )
    return Outcome(numbers, verdict(held), "; ".join(reasons), [figure], headline=headline)


def _arm(context: Context, norm: str, rate: float, seed: int) -> dict[str, Any]:
    steps = context.steps(STEPS, QUICK_STEPS)
    points = QUICK_POINTS if context.quick else POINTS

    def train() -> dict[str, Any]:
        data = context.images()
        side = round(data.train_x.shape[1] ** 0.5)
        model = PatchTransformer(
            side,
            data.classes,
            patch=side // 4,
            width=WIDTH,
            depth=DEPTH,
            heads=HEADS,
            norm=norm,
            seed=seed,
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=rate)
        name = f"{NORMS[norm]}, rate {rate:g}"
        wanted = rate == MATCHED and norm in ("layer", "batch", "none")
        with recorded(context, name, model, seed, steps, wanted) as signal:
            found = fit(
                model,
                optimizer,
                data,
                steps=steps,
                batch_size=BATCH,
                seed=seed,
                evaluate_at=[step for step in spaced(steps, points) if step > 2],
                signal=signal,
                context=context,
            )
        return found.kept()

    return context.run({"norm": norm, "rate": rate, "seed": seed, "steps": steps}, train)


CLAIM = Claim(
    name="transformers",
    title="Transformers",
    statement=(
        "A transformer wants normalization by token: layer norm, and as well RMS norm or dynamic "
        "tanh, which averages nothing; batch norm and no norm at all do worse."
    ),
    source=(
        "RMS norm: Zhang & Sennrich 2019, arXiv:1910.07467; dynamic tanh: Zhu et al. 2025, "
        "arXiv:2503.10622, table 1; batch norm: Shen et al. 2020, arXiv:2003.07845"
    ),
    protocol=(
        "A pre-norm transformer over 16 patches of 7 × 7 pixels of Fashion-MNIST images: "
        f"{DEPTH} blocks, width {WIDTH}, {HEADS} heads, Glorot, the same first weights for all "
        "norms; batch norm over all tokens of the batch; dynamic tanh with α₀ = 0.5. Adam without "
        f"warm-up or decay, batch {BATCH}, {STEPS:,} steps, 3 seeds, rates "
        f"{', '.join(f'{rate:g}' for rate in RATES)}: compared at the matched rate {MATCHED:g} and "
        "each at its own best, by the very number that is compared: the accuracy on all test "
        "images at the end. --quick: "
        f"{QUICK_STEPS} steps, rates {' and '.join(f'{rate:g}' for rate in QUICK_RATES)}."
    ),
    criterion=(
        f"RMS norm and dynamic tanh are within {100 * CLOSE:.0f} point of layer norm, batch norm "
        f"and no norm more than {100 * CLOSE:.0f} point below it (medians over seeds). Holds: at "
        "the matched rate and at each one's own best; holds under this protocol: at one of them; "
        "does not hold here: at neither."
    ),
    paper="DyT matches LN (ViT-B 82.5% against 82.3%, ImageNet)",
    minutes_quick=1.5,
    minutes_full=18,
    run=run,
    version=2,
)
