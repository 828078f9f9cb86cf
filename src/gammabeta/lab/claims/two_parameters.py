"""Two parameters: γ and β can undo the normalization, and can train a network by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.claims.framework.claim import (
    DOES_NOT_HOLD,
    HOLDS,
    UNDER_THIS_PROTOCOL,
    Claim,
    Number,
    Outcome,
)
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Net
from gammabeta.lab.claims.framework.figure import (
    COOL,
    LINE,
    MUTED,
    WARM,
    band,
    label,
    labels,
    sheet,
)
from gammabeta.lab.claims.framework.training import train
from gammabeta.layers import BatchNorm1d

NET = Net(3, "relu")
RATES = (0.1, 0.3, 1.0)
EXACT = 1e-5
"""Largest error of the identity, over the largest value: some 80 roundings of float32."""
ENOUGH, ABOVE_CHANCE = 0.5, 0.2
_STEPS, _QUICK_STEPS = 6000, 1500
_BATCHES = 100
ARMS = (("affine", "only γ and β", COOL), ("classifier", "only the classifier", WARM))


def run(context: Context) -> Outcome:
    """Recover the identity; then train γ and β of a random network, and nothing else."""
    context.plan(3 * len(context.seeds))
    steps = context.steps(_STEPS, _QUICK_STEPS)
    errors = [
        context.run({"part": "identity", "seed": seed}, lambda seed=seed: _identity(seed))["error"]  # type: ignore[misc]
        for seed in context.seeds
    ]
    finals: dict[str, list[list[float]]] = {}
    curves: dict[str, list[Any]] = {}
    marks: list[int] = []
    for arm, _, _ in ARMS:
        finals[arm], curves[arm] = [], []
        for seed in context.seeds:
            result = context.run(
                {"part": arm, "rates": list(RATES), "steps": steps, "seed": seed},
                lambda arm=arm, seed=seed: _train(context, arm, seed, steps),  # type: ignore[misc]
            )
            marks = result["steps"]
            finals[arm].append([member["final"] for member in result["members"]])
            curves[arm].append(result["members"])
    best = {arm: _best(seeds) for arm, seeds in finals.items()}
    affine = Number.over(
        "accuracy of a random network whose γ and β alone are trained",
        [seed[best["affine"]] for seed in finals["affine"]],
        "%",
        target=f"≥ {ENOUGH:.0%}",
    )
    identity = Number.over(
        "error of the identity that γ and β recover, over the largest value",
        errors,
        paper="“could represent the identity transform”",
        target=f"≤ {EXACT:g}",
    )
    numbers = [
        affine,
        identity,
        Number.over(
            "accuracy where the classifier alone is trained",
            [seed[best["classifier"]] for seed in finals["classifier"]],
            "%",
        ),
        Number("numbers trained: γ and β", 600, 600, 600, f"of {_parameters(context):,}"),
    ]
    exact = identity.high <= EXACT
    if exact and affine.value >= ENOUGH:
        verdict = HOLDS
    elif exact and affine.value >= ABOVE_CHANCE:
        verdict = UNDER_THIS_PROTOCOL
    else:
        verdict = DOES_NOT_HOLD
    because = (
        f"γ and β set to a mini-batch's standard deviation and mean give the input back within "
        f"{identity.text()} (target ≤ {EXACT:g}), and training them alone takes a random network "
        f"to {affine.text()} (target ≥ {ENOUGH:.0%}; chance is 10 %)."
    )
    describe = (
        f"Test accuracy of a random network of which only γ and β are trained: {affine.text()}; "
        f"of which only the classifier is trained: {numbers[2].text()}."
    )
    chosen = {arm: [each[best[arm]]["accuracy"] for each in curves[arm]] for arm, *_ in ARMS}
    return Outcome(numbers, verdict, because, [_draw(context, describe, marks, chosen)])


def _draw(
    context: Context, describe: str, marks: list[int], curves: dict[str, list[list[float]]]
) -> Path:
    """Each arm's accuracy over steps, at its best rate."""
    path = context.figure("curves")
    with sheet(path, describe, panel=(5.4, 2.9)) as drawn:
        axes = drawn.panels[0]
        ends = []
        for arm, name, colour in ARMS:
            ends.append(band(axes, marks, 100 * np.array(curves[arm]), colour, name))
        axes.axhline(10, color=LINE, zorder=0)
        label(axes, marks[0], 10, "chance", MUTED, fontsize=8, offset=(0, 5))
        axes.set_xscale("log")
        axes.set_ylim(0, 100)
        axes.set_xlabel("steps")
        axes.set_ylabel("test accuracy (%)")
        axes.set_title("a random network: what is trained, at its best rate")
        labels(axes, ends, 9)
    return path


def _identity(seed: int) -> dict[str, float]:
    """The largest error of γx̂ + β = x over mini-batches of many scales and offsets."""
    generator = torch.Generator().manual_seed(seed)
    layer = BatchNorm1d(64)
    worst = 0.0
    for _ in range(_BATCHES):
        scale, offset = torch.rand(2, 64, generator=generator) * 8 - 4
        x = torch.randn(60, 64, generator=generator) * scale.exp() + offset * scale.exp()
        with torch.no_grad():
            variance = x.double().var(0, correction=0)
            layer.weight.copy_((variance + layer.eps).sqrt())
            layer.bias.copy_(x.double().mean(0))
            error = (layer(x) - x).abs().amax(0) / x.abs().amax(0)
        worst = max(worst, float(error.max()))
    return {"error": worst}


def _train(context: Context, arm: str, seed: int, steps: int) -> dict[str, Any]:
    data = context.images()
    inputs = data.train_x.shape[1]
    crowd = Crowd([NET.build(inputs, data.classes, "batch", seed) for _ in RATES])
    if arm == "affine":
        crowd.affine_only()
    else:
        crowd.classifier_only()
    return train(crowd, data, RATES, steps=steps, seed=seed, within=context.progress.within)


def _best(seeds: list[list[float]]) -> int:
    """The rate whose median final accuracy is highest."""
    medians = torch.tensor(seeds).median(0).values
    return int(medians.argmax())


def _parameters(context: Context) -> int:
    data = context.images()
    model = NET.build(data.train_x.shape[1], data.classes, "batch", 0)
    return sum(parameter.numel() for parameter in model.parameters())


CLAIM = Claim(
    name="two-parameters",
    title="γ and β restore what the network wants",
    statement="With γ and β the normalization takes nothing away: they can recover the identity. "
    "And they are expressive: trained alone, they make a random network a classifier.",
    source="Ioffe & Szegedy 2015, section 3; Frankle, Schwab & Morcos 2021, arXiv:2003.00152",
    protocol=f"Identity: {_BATCHES} mini-batches of 60 × 64, channels of scales e⁻⁴ … e⁴ and means "
    "of up to four times that, γ = √(σ² + ε) and β = μ of the mini-batch, in float32. Training: "
    f"{NET.title()} with batch norm on Fashion-MNIST, all weights random and fixed, classifier "
    f"included; γ and β trained by plain SGD at each of {', '.join(map(str, RATES))}, {_STEPS:,} "
    f"steps (quick: {_QUICK_STEPS:,}), the best of which by test accuracy counts. Beside it "
    "the same with the classifier trained alone, 1,010 numbers.",
    criterion=f"The identity is recovered within {EXACT:g} in every seed, and γ and β alone reach "
    f"{ENOUGH:.0%} (median): the claim holds. If they reach {ABOVE_CHANCE:.0%} only, it holds "
    "under this protocol. Else it does not hold here.",
    paper="identity recovered (no number)",
    minutes_quick=0.6,
    minutes_full=2.5,
    run=run,
)
