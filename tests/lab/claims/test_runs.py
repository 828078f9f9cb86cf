"""Every claim about stacks runs, whole and tiny; and its verdict is what its numbers say."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from gammabeta.lab.claims.framework.claim import DOES_NOT_HOLD, HOLDS, UNDER_THIS_PROTOCOL, VERDICTS
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.registry import claim
from gammabeta.signal import Run

NAMES = [
    "fewer-steps",
    "higher-learning-rates",
    "bolder-initialization",
    "saturating-nonlinearity",
    "stable-distributions",
    "two-parameters",
    "regularizer",
    "ensemble",
    "inception",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """The quick protocols at a hundredth of their steps, on the embedded digits."""
    folder = tmp_path_factory.mktemp("claims")
    return Context(folder, quick=True, data="digits", scale=0.004)


@pytest.mark.parametrize("name", NAMES)
def test_a_tiny_run(tiny: Context, name: str) -> None:
    mine = claim(name)
    state = torch.get_rng_state()
    outcome = mine.run(tiny.of(mine))
    assert torch.equal(torch.get_rng_state(), state)
    assert outcome.verdict in VERDICTS
    assert outcome.because.endswith(".")
    for figure in outcome.figures:
        assert figure.parent == tiny.folder / "figures"
        root = ET.parse(figure).getroot()
        svg = figure.read_text()
        ids = re.findall(r'\bid="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert all(i == "theme" or i.startswith(figure.stem) for i in ids)
        assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(ids)
        described = root.find("{http://www.w3.org/2000/svg}title")
        assert described is not None
        assert described.text
        left = re.sub(r"var\(--\w+, #\w+\)|<style id=.*?</style>", "", svg)
        assert re.findall(r"#[0-9a-f]{6}\b", left) == []  # every colour follows the page's theme


def test_again_nothing_is_computed(tiny: Context) -> None:
    mine = claim("ensemble")
    outcome = mine.run(tiny.of(mine))
    before = {path: path.stat().st_mtime_ns for path in tiny.folder.glob("results/*/*")}
    assert mine.run(tiny.of(mine)) == outcome
    assert {path: path.stat().st_mtime_ns for path in tiny.folder.glob("results/*/*")} == before


def test_recorded_runs_can_be_replayed(tiny: Context) -> None:
    mine = claim("saturating-nonlinearity")
    mine.run(tiny.of(mine))
    with Run(tiny.folder / "runs/saturating-nonlinearity/ten-layers.sqlite") as run:
        assert list(run.arms().values()) == ["without", "with batch norm"]
        assert run.status() == "finished"


def test_the_same_seed_is_the_same_outcome(tmp_path: Path) -> None:
    mine = claim("ensemble")
    outcomes = [
        mine.run(Context(tmp_path / name, True, data="digits", scale=0.01).of(mine))
        for name in ("a", "b")
    ]
    assert outcomes[0].numbers == outcomes[1].numbers


# Verdicts, from results made up.


@dataclass(frozen=True)
class Canned(Context):
    """A context in which every result is given by ``answer`` from its key."""

    answer: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda key: {}

    def run(
        self, key: Mapping[str, Any], function: Callable[[], dict[str, Any]], shared: str = ""
    ) -> dict[str, Any]:
        return dict(json.loads(json.dumps(self.answer(key))))


def verdict(name: str, tmp_path: Path, answer: Callable[[Mapping[str, Any]], Any]) -> str:
    mine = claim(name)
    canned = Canned(tmp_path, quick=True, data="digits", answer=answer)
    return mine.run(canned.of(mine)).verdict


@pytest.mark.parametrize(
    ("together", "expected"),
    [
        ((0.92, 0.92, 0.92), HOLDS),
        ((0.92, 0.92, 0.90), UNDER_THIS_PROTOCOL),
        ((0.92, 0.91, 0.90), DOES_NOT_HOLD),
        ((0.91 + 1e-6,) * 3, DOES_NOT_HOLD),  # as good as the best: float32 has more digits
    ],
)
def test_ensemble(tmp_path: Path, together: tuple[float, ...], expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        return {"alone": [0.9, 0.91, 0.88, 0.9, 0.9, 0.9], "together": together[key["seed"]]}

    assert verdict("ensemble", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (0.90, 0.85, HOLDS),  # half the gap, as good as dropout
        (0.90, 0.80, UNDER_THIS_PROTOCOL),  # a smaller gap, but dropout is needed
        (0.99, 0.85, UNDER_THIS_PROTOCOL),  # as good, but no smaller a gap
        (1.00, 0.80, DOES_NOT_HOLD),
    ],
)
def test_regularizer(tmp_path: Path, train: float, test: float, expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        if key["norm"] == "none":
            train_, test_ = 0.98, 0.85
        else:
            train_, test_ = train, test
        return {"members": [{"held_out": 0.8, "train": train_, "test": test_}] * 12}

    assert verdict("regularizer", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("without", "with_norm", "expected"),
    [
        (0.11, 0.86, HOLDS),
        (0.30, 0.86, UNDER_THIS_PROTOCOL),
        (0.11, 0.60, UNDER_THIS_PROTOCOL),
        (0.40, 0.60, DOES_NOT_HOLD),
    ],
)
def test_saturating(tmp_path: Path, without: float, with_norm: float, expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        final = without if key.get("norm") == "none" else with_norm
        member = {"accuracy": [0.1, final], "loss": [2.3, 1.0], "diverged": None, "final": final}
        return {"steps": [10, 20], "members": [member] * 2}

    assert verdict("saturating-nonlinearity", tmp_path, answer) == expected


def test_saturating_looks_at_every_rate_and_time(tmp_path: Path) -> None:
    """One seed that learned once, at a rate that is not the best of the medians, is no chance."""

    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        final = 0.1 if key.get("norm") == "none" else 0.86
        member = {"accuracy": [0.1, final], "loss": [2.3, 1.0], "diverged": None, "final": final}
        lucky = {**member, "accuracy": [0.6, final]} if key.get("seed") == 1 else member
        return {"steps": [10, 20], "members": [member, lucky]}

    assert verdict("saturating-nonlinearity", tmp_path, answer) == UNDER_THIS_PROTOCOL


@pytest.mark.parametrize(
    ("error", "final", "expected"),
    [
        (1e-7, 0.6, HOLDS),
        (1e-7, 0.3, UNDER_THIS_PROTOCOL),
        (1e-7, 0.1, DOES_NOT_HOLD),
        (1e-3, 0.6, DOES_NOT_HOLD),
    ],
)
def test_two_parameters(tmp_path: Path, error: float, final: float, expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        if key["part"] == "identity":
            return {"error": error}
        member = {"accuracy": [0.1, final], "final": final}
        return {"steps": [10, 20], "members": [member] * 3}

    assert verdict("two-parameters", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("factor", "expected"),
    [(0.4, HOLDS), (0.8, UNDER_THIS_PROTOCOL), (1.2, DOES_NOT_HOLD)],
)
def test_stable_distributions(tmp_path: Path, factor: float, expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        if "recorded" in key:
            return {}
        moved = factor if key["norm"] == "batch" else 1.0
        return {
            "steps": [10, 20],
            "percentiles": [[[-1.0] * 5, [0.0] * 5, [1.0] * 5],
                            [[-1 - moved] * 5, [0.0] * 5, [1 + moved] * 5]],
        }  # fmt: skip

    assert verdict("stable-distributions", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("highest", "scales", "rates_hold", "area_holds"),
    [
        # Of 7 rates (5.6 × apart) and 5 scales; without: 1 rate at 1 scale of both networks.
        ((3, 3), (5, 5), HOLDS, HOLDS),
        ((3, 1), (5, 1), UNDER_THIS_PROTOCOL, UNDER_THIS_PROTOCOL),
        ((1, 1), (1, 1), DOES_NOT_HOLD, DOES_NOT_HOLD),
    ],
)
def test_the_grid(
    tmp_path: Path,
    highest: tuple[int, int],
    scales: tuple[int, int],
    rates_hold: str,
    area_holds: str,
) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        if "recorded" in key:
            return {}
        which = 0 if "sigmoid" in key["net"] else 1
        rates, columns = (1, 1) if key["norm"] == "none" else (highest[which], scales[which])
        good = {
            (rate, column)
            for rate in range(rates)
            for column in range(5)
            if abs(column - 2) <= columns // 2
        }
        return {
            "members": [
                {"accuracy": [0.8 if (row, column) in good else 0.1], "diverged": None}
                for row in range(7)
                for column in range(5)
            ]
        }

    assert verdict("higher-learning-rates", tmp_path, answer) == rates_hold
    assert verdict("bolder-initialization", tmp_path, answer) == area_holds


@pytest.mark.parametrize(("with_norm", "expected"), [(0.8, HOLDS), (0.1, DOES_NOT_HOLD)])
def test_the_grid_where_nothing_trains_without(
    tmp_path: Path, with_norm: float, expected: str
) -> None:
    """Something over nothing is infinitely more; nothing over nothing is no advantage."""

    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        accuracy = 0.1 if key.get("norm") == "none" else with_norm
        return {"members": [{"accuracy": [accuracy], "diverged": None}] * 35}

    assert verdict("higher-learning-rates", tmp_path, answer) == expected
    assert verdict("bolder-initialization", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("fast", "ten", "expected"),
    [
        (10, 0.86, HOLDS),  # 100 steps without
        (20, 0.86, DOES_NOT_HOLD),  # 5 times fewer, everywhere
        (10, 0.84, DOES_NOT_HOLD),  # the deep one does not learn enough
        (None, 0.86, UNDER_THIS_PROTOCOL),  # ten times fewer for the 5 layers only
    ],
)
def test_fewer_steps(tmp_path: Path, fast: int | None, ten: float, expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        marks = [10, 20, 100]
        deep = key["net"].startswith("10 ×")
        if key["norm"] == "none":
            accuracy, final = ([0.1] * 3, 0.1) if deep else ([0.1, 0.3, 0.8], 0.8)
        else:
            needs = fast or (10 if "5 ×" in key["net"] else 20)
            accuracy, final = [0.86 if mark >= needs else 0.2 for mark in marks], 0.86
            final = ten if deep else final
        member = {"accuracy": accuracy, "final": final}
        return {"steps": marks, "members": [member] * len(key["rates"])}

    assert verdict("fewer-steps", tmp_path, answer) == expected


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        # Steps of inception and of the recipes to 80 %, all at the one rate of the quick grid.
        ({"inception": 100, "bn-x30": 10}, HOLDS),
        ({"inception": 100, "bn-x30": 20}, DOES_NOT_HOLD),
        ({"inception": 10, "bn-x30": 10}, DOES_NOT_HOLD),
    ],
)
def test_inception(tmp_path: Path, needs: dict[str, int], expected: str) -> None:
    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        marks = [10, 20, 100]
        first = needs.get(key["recipe"], 100)
        return {"steps": marks, "accuracy": [0.8 if mark >= first else 0.2 for mark in marks]}

    assert verdict("inception", tmp_path, answer) == expected


def test_inception_holds_under_this_protocol_where_only_one_rate_says_so(tmp_path: Path) -> None:
    """At 0.003 the baseline needs 100 steps, bn-x5 10; but at 0.01 the baseline needs 20."""

    def answer(key: Mapping[str, Any]) -> dict[str, Any]:
        marks = [10, 20, 100]
        first, top = 20, 0.8
        if key["recipe"] == "inception":
            first, top = {0.003: (100, 0.7), 0.01: (20, 0.85), 0.03: (20, 0.8)}[key["rate"]]
        elif key["recipe"] == "bn-x5":
            first, top = 10, 0.72
        return {"steps": marks, "accuracy": [top if mark >= first else 0.2 for mark in marks]}

    mine = claim("inception")
    canned = Canned(tmp_path, data="digits", answer=answer)
    assert mine.run(canned.of(mine)).verdict == UNDER_THIS_PROTOCOL
