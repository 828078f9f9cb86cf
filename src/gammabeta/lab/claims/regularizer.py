"""Regularizer: batch norm against dropout, both, and neither."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from gammabeta.lab.claims.framework.batched_stacks import Crowd
from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome, verdict
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.curves import Net
from gammabeta.lab.claims.framework.figure import COOL, MUTED, OLIVE, PLUM, WARM, label, sheet
from gammabeta.lab.claims.framework.training import accuracies, train

NET = Net(3, "relu")
RATES = (0.03, 0.1, 0.3)
DROPOUTS = (0.1, 0.2, 0.4)
IMAGES = 5000
"""To train on; as many others to choose rate and dropout by. With few images it overfits."""
SMALLER, NEAR = 0.9, 0.005
_STEPS, _QUICK_STEPS = 8000, 1200

ARMS = (
    ("neither", "none", (0.0,), WARM),
    ("dropout", "none", DROPOUTS, OLIVE),
    ("batch norm", "batch", (0.0,), COOL),
    ("both", "batch", DROPOUTS, PLUM),
)


def run(context: Context) -> Outcome:
    """Train every rate and dropout, choose by the images held out, and compare the gaps."""
    context.plan(2 * len(context.seeds))
    steps = context.steps(_STEPS, _QUICK_STEPS)
    cells = [(rate, dropout) for rate in RATES for dropout in (0.0, *DROPOUTS)]
    found: dict[str, list[list[dict[str, float]]]] = {"none": [], "batch": []}
    for norm, seeds in found.items():
        for seed in context.seeds:
            result = context.run(
                {"net": NET.title(), "norm": norm, "steps": steps, "seed": seed},
                lambda norm=norm, seed=seed: _train(context, norm, cells, steps, seed),  # type: ignore[misc]
            )
            seeds.append(result["members"])
    gaps: dict[str, Number] = {}
    tests: dict[str, Number] = {}
    points: dict[str, list[dict[str, float]]] = {}
    chosen: list[str] = []
    for arm, norm, dropouts, _ in ARMS:
        cell = max(
            (index for index, (_, dropout) in enumerate(cells) if dropout in dropouts),
            key=lambda index: statistics.median(s[index]["held_out"] for s in found[norm]),
        )
        mine = points[arm] = [seed[cell] for seed in found[norm]]
        gaps[arm] = Number.over(f"{arm}: gap, training − test", [_gap(p) for p in mine], "%")
        tests[arm] = Number.over(f"{arm}: test accuracy", [p["test"] for p in mine], "%")
        rate, dropout = cells[cell]
        chosen.append(f"{arm}: rate {rate:g}" + (f", dropout {dropout:g}" if dropout else ""))
    ratio = Number.over(
        "gap with batch norm over gap with neither",
        [_gap(b) / _gap(a) for a, b in zip(points["neither"], points["batch norm"], strict=True)],
        "×",
        paper="less overfitting; dropout removed",
        target=f"≤ {SMALLER:g} ×",
    )
    less = ratio.value <= SMALLER
    replaces = tests["batch norm"].value >= tests["dropout"].value - NEAR
    because = (
        f"The gap between training and test accuracy is {ratio.text()} that of the network with "
        f"neither (target ≤ {SMALLER:g} ×), and batch norm alone has "
        f"{tests['batch norm'].text()} on the test set where dropout alone has "
        f"{tests['dropout'].text()}."
    )
    return Outcome(
        [ratio, *(number for arm in gaps for number in (tests[arm], gaps[arm]))],
        verdict([less, replaces]),
        because,
        [_draw(context, gaps, tests, points)],
        [f"Chosen by the images held out: {'; '.join(chosen)}."],
    )


def _draw(
    context: Context,
    gaps: dict[str, Number],
    tests: dict[str, Number],
    points: dict[str, list[dict[str, float]]],
) -> Path:
    """A line an arm, from its test accuracy to that on its training images."""
    path = context.figure("gap")
    with sheet(
        path,
        "Training and test accuracy with neither, dropout, batch normalization and both: "
        + "; ".join(
            f"{arm}: gap {gap.text()}, test {tests[arm].text()}" for arm, gap in gaps.items()
        ),
        panel=(5.4, 2.5),
    ) as drawn:
        axes = drawn.panels[0]
        for row, (arm, _, _, colour) in enumerate(reversed(ARMS)):
            test = 100 * statistics.median(p["test"] for p in points[arm])
            training = 100 * statistics.median(p["train"] for p in points[arm])
            axes.plot([test, training], [row, row], color=colour, lw=2)
            axes.plot(
                [100 * p["test"] for p in points[arm]],
                [row] * len(points[arm]),
                "o",
                color=colour,
                ms=4,
            )
            axes.plot(
                [100 * p["train"] for p in points[arm]],
                [row] * len(points[arm]),
                "D",
                color=colour,
                ms=3.5,
            )
            label(
                axes,
                100 * max(p["train"] for p in points[arm]),
                row,
                f"{training - test:.1f} points",
                colour,
                offset=(8, 0),
            )
        axes.set_yticks(range(len(ARMS)))
        axes.set_yticklabels([arm for arm, *_ in reversed(ARMS)])
        axes.set_ylim(-0.6, len(ARMS) - 0.4)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel("accuracy (%): ● test, ◆ training, one a seed; the line is the gap")
        axes.xaxis.label.set_color(MUTED)
    return path


def _gap(point: dict[str, float]) -> float:
    return point["train"] - point["test"]


def _train(
    context: Context, norm: str, cells: list[tuple[float, float]], steps: int, seed: int
) -> dict[str, Any]:
    whole = context.images()
    count = min(IMAGES, len(whole.train_x) // 2)
    few = replace(
        whole,
        train_x=whole.train_x[:count],
        train_y=whole.train_y[:count],
        test_x=whole.train_x[count : 2 * count],
        test_y=whole.train_y[count : 2 * count],
    )
    inputs = whole.train_x.shape[1]
    crowd = Crowd(
        [NET.build(inputs, whole.classes, norm, seed) for _ in cells],
        [dropout for _, dropout in cells],
        seed=seed,
    )
    held_out = train(
        crowd,
        few,
        [rate for rate, _ in cells],
        steps=steps,
        seed=seed,
        measure=[max(1, steps // 2), steps],
        within=context.progress.within,
    )
    training = accuracies(crowd, few.train_x, few.train_y)
    test = accuracies(crowd, whole.test_x, whole.test_y)
    return {
        "members": [
            {"held_out": member["final"], "train": a, "test": b}
            for member, a, b in zip(held_out["members"], training, test, strict=True)
        ]
    }


CLAIM = Claim(
    name="regularizer",
    title="A regularizer",
    statement="Batch normalization regularizes: a network with it overfits less, and dropout can "
    "be removed or reduced.",
    source="Ioffe & Szegedy 2015, sections 3.4 and 4.2.1",
    protocol=f"{NET.title()}, trained on {IMAGES:,} images of Fashion-MNIST for {_STEPS:,} steps "
    f"of 60 (quick: {_QUICK_STEPS:,}) by plain SGD at each rate of {', '.join(map(str, RATES))}, "
    "with neither batch norm nor dropout, with dropout after every hidden layer (each of "
    f"{', '.join(map(str, DROPOUTS))}), with batch norm, with both. In each arm rate and dropout "
    f"are those with the highest median accuracy on {IMAGES:,} other images. The gap is accuracy "
    "on the training images minus accuracy on the test set, both in evaluation mode.",
    criterion=f"The gap with batch norm is at most {SMALLER:g} times that with neither, and its "
    f"test accuracy is at least dropout's less {100 * NEAR:g} points, so that dropout can go: the "
    "claim holds. One of the two: it holds under this protocol. Neither: it does not hold here.",
    paper="dropout removed, no more overfitting",
    minutes_quick=1,
    minutes_full=6,
    run=run,
)
