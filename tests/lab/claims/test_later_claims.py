"""Smoothness, covariate shift, noise, evaluation, small batches, recurrence, transformers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from gammabeta.lab.claims import (
    batch_of_one,
    covariate_shift,
    noisy_bn,
    recurrent,
    smoother_landscape,
    train_eval_gap,
    transformers,
)
from gammabeta.lab.claims.framework.claim import DOES_NOT_HOLD, HOLDS, UNDER_THIS_PROTOCOL, Outcome
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.registry import claims

MODULES = [
    smoother_landscape,
    covariate_shift,
    noisy_bn,
    train_eval_gap,
    batch_of_one,
    recurrent,
    transformers,
]
pytest.importorskip("matplotlib")


class Counted(Context):
    """Counts what was really computed."""

    computed: list[str] = []  # noqa: RUF012  (emptied by each test)

    def run(self, key: Any, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        def counted() -> dict[str, Any]:
            self.computed.append(str(key))
            return function()

        return super().run(key, counted)


# Two steps a run: that they learn is shown by the runs themselves.
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.CLAIM.name)
def test_it_runs_keeps_its_results_and_draws(module: Any, tmp_path: Path) -> None:
    claim = module.CLAIM
    assert claims()[claim.name] is claim
    Counted.computed.clear()
    context = Counted(tmp_path, quick=True, seeds=(0,), data="digits", scale=0.002).of(claim)
    outcome = claim.run(context)
    for figure in outcome.figures:
        assert ElementTree.parse(figure).getroot().tag.endswith("svg")
    assert Counted.computed
    Counted.computed.clear()
    again = claim.run(context)
    assert not Counted.computed  # all of it was kept
    assert str(again) == str(outcome)


def test_a_seed_makes_the_same_numbers(tmp_path: Path) -> None:
    claim = recurrent.CLAIM
    one, two = (
        claim.run(Context(tmp_path / name, True, (0,), "digits", scale=0.02).of(claim))
        for name in "ab"
    )
    assert list(map(str, one.numbers)) == list(map(str, two.numbers))


def decided(
    module: Any, monkeypatch: pytest.MonkeyPatch, path: Path, result: Callable[..., dict[str, Any]]
) -> Outcome:
    """The outcome if each arm had given what ``result`` says."""
    monkeypatch.setattr(module, "_arm", lambda context, *arm: result(*arm))
    outcome = module.CLAIM.run(Context(path, quick=True, data="digits").of(module.CLAIM))
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize(
    ("smoother_at", "verdict"),
    [
        ((0.1, 0.01), HOLDS),
        ((0.01,), UNDER_THIS_PROTOCOL),
        ((), DOES_NOT_HOLD),
    ],
)
def test_smoother_landscape_decides(
    smoother_at: tuple[float, ...], verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def result(arm: str, rate: float, seed: int) -> dict[str, Any]:
        size = 1.0 if arm == "without" or rate not in smoother_at else 0.25
        return {"rows": [[step, 1.0, 0.0, size, 0.0, size, size * 1.01] for step in (1, 2, 3)]}

    outcome = decided(smoother_landscape, monkeypatch, tmp_path, result)
    assert outcome.verdict == verdict
    ratios = [number.value for number in outcome.numbers]
    assert ratios == pytest.approx(
        [4.0 if r in smoother_at else 1.0 for r in (0.1, 0.01) for _ in "abc"]
    )


@pytest.mark.parametrize(
    ("reduced_in", "verdict"),
    [((0, 1, 2), HOLDS), ((1,), UNDER_THIS_PROTOCOL), ((), DOES_NOT_HOLD)],
)
def test_covariate_shift_decides(
    reduced_in: tuple[int, ...], verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def result(setting: int, arm: str, seed: int) -> dict[str, Any]:
        better = arm != "without" and setting in reduced_in
        cosine, distance = (0.9, 0.1) if better else (0.5, 0.8)
        return {"at": [1, 2], "cosine": [cosine] * 2, "distance": [distance] * 2}

    assert decided(covariate_shift, monkeypatch, tmp_path, result).verdict == verdict


GOOD = (0.8, 0.9, 0.1, 0.88)  # without, with batch norm, without + noise, with it + noise
STUBBORN = (0.8, 0.9, 0.6, 0.88)  # the noise does not stop the plain network
COSTLY = (0.8, 0.9, 0.1, 0.75)  # the noise costs batch norm too much
IDLE = (0.3, 0.9, 0.1, 0.88)  # there is nothing to be stopped


@pytest.mark.parametrize(
    ("relu", "sigmoid", "verdict"),
    [
        ((GOOD, GOOD), GOOD, HOLDS),
        ((GOOD, STUBBORN), STUBBORN, UNDER_THIS_PROTOCOL),  # at the matched rate alone
        ((STUBBORN, GOOD), STUBBORN, DOES_NOT_HOLD),
        ((STUBBORN, STUBBORN), GOOD, UNDER_THIS_PROTOCOL),
        ((STUBBORN, STUBBORN), STUBBORN, DOES_NOT_HOLD),
        ((COSTLY, COSTLY), COSTLY, DOES_NOT_HOLD),
        ((IDLE, IDLE), IDLE, DOES_NOT_HOLD),
    ],
)
def test_noisy_bn_decides(
    relu: tuple[tuple[float, ...], ...],
    sigmoid: tuple[float, ...],
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Two rates for the ReLU network: at the one that is not matched every arm may be at its best.
    first, second, *_ = noisy_bn.SETTINGS
    two = replace(first, quick_rates=(0.1, 0.3))
    monkeypatch.setattr(noisy_bn, "SETTINGS", (two, second))

    def result(setting: noisy_bn.Setting, arm: str, rate: float, seed: int) -> dict[str, Any]:
        of_rate = relu[(0.1, 0.3).index(rate)] if setting.activation == "relu" else sigmoid
        reached = of_rate[list(noisy_bn.ARMS).index(arm)]
        return {"training_accuracy": reached, "motion": 1.0, "curve": [0.1, reached]}

    outcome = decided(noisy_bn, monkeypatch, tmp_path, result)
    assert outcome.verdict == verdict
    # A rate that is not the matched one decides nothing by itself, but is told.
    assert len(outcome.notes) == (relu[1] == GOOD)


@pytest.mark.parametrize(
    ("early", "late", "algorithm2", "verdict"),
    [
        ((0.2, 0.2), 0.001, 0.0, HOLDS),
        ((0.2, 0.02), 0.001, 0.0, UNDER_THIS_PROTOCOL),
        ((0.2, 0.2), 0.03, 0.0, DOES_NOT_HOLD),
        ((0.2, 0.2), 0.001, 0.05, DOES_NOT_HOLD),  # Algorithm 2 below a moving average
    ],
)
def test_train_eval_gap_decides(
    early: tuple[float, float],
    late: float,
    algorithm2: float,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def result(size: int, momentum: float, seed: int) -> dict[str, Any]:
        first = early[train_eval_gap.BATCHES.index(size)]
        points = {str(point): late for point in (20, 50, 100, 300)} | {"5": first}
        flat = dict.fromkeys(points, algorithm2)
        return {"gaps": {"moving average": points, "Algorithm 2": flat, "pooled": flat}}

    assert decided(train_eval_gap, monkeypatch, tmp_path, result).verdict == verdict


@pytest.mark.parametrize(
    ("moving", "population", "verdict"),
    [(0.1, 0.1, HOLDS), (0.1, 0.0, UNDER_THIS_PROTOCOL), (0.01, 0.0, DOES_NOT_HOLD)],
)
def test_batch_of_one_decides(
    moving: float,
    population: float,
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def result(norm: str, size: int, seed: int) -> dict[str, Any]:
        small = norm == "batch" and size == 2
        common = 0.8 - (0.2 if size > 32 else 0.0)  # what batch size does to every norm
        return {"final": common - moving * small, "population": common - population * small}

    outcome = decided(batch_of_one, monkeypatch, tmp_path, result)
    assert outcome.verdict == verdict
    assert outcome.numbers[0].value == pytest.approx(100 * moving)  # points


@pytest.mark.parametrize(
    ("steps", "verdict"),
    [((10, 10), HOLDS), ((40, 10), UNDER_THIS_PROTOCOL), ((40, 40), DOES_NOT_HOLD)],
)
def test_recurrent_decides(
    steps: tuple[int, int], verdict: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def result(arm: str, rate: float, seed: int) -> dict[str, Any]:
        own = rate > recurrent.MATCHED
        there = steps[own] if arm == "recurrent" else 30
        best = 0.9 if own else 0.8
        curve = [[step, best if step >= there else 0.1] for step in range(10, 50, 10)]
        return {"accuracies": curve, "final": best, "diverged": None}

    outcome = decided(recurrent, monkeypatch, tmp_path, result)
    assert outcome.verdict == verdict
    assert outcome.numbers[0].value == pytest.approx(30 / steps[0])


def test_an_arm_that_never_gets_there_has_a_ratio_of_zero(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def result(arm: str, rate: float, seed: int) -> dict[str, Any]:
        best = 0.9 if arm == "plain" else 0.5
        return {"accuracies": [[10, best], [20, best]], "final": best, "diverged": None}

    outcome = decided(recurrent, monkeypatch, tmp_path, result)
    assert outcome.numbers[0].value == 0
    assert outcome.verdict == DOES_NOT_HOLD


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        ({"batch": 0.8, "none": 0.8}, {"batch": 0.8, "none": 0.8}, HOLDS),
        ({"batch": 0.8, "none": 0.89}, {"batch": 0.8, "none": 0.8}, UNDER_THIS_PROTOCOL),
        ({"batch": 0.8, "none": 0.91}, {"batch": 0.95, "none": 0.1}, DOES_NOT_HOLD),
        ({"batch": 0.8, "dyt": 0.7}, {"batch": 0.8, "none": 0.8, "dyt": 0.7}, DOES_NOT_HOLD),
    ],
)
def test_transformers_decides(
    low: dict[str, float],
    high: dict[str, float],
    verdict: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def result(norm: str, rate: float, seed: int) -> dict[str, Any]:
        reached = (high if rate == transformers.MATCHED else low).get(norm, 0.9)
        return {"accuracies": [[10, reached]], "final": reached, "diverged": None}

    assert decided(transformers, monkeypatch, tmp_path, result).verdict == verdict


def test_the_reader_reads_rows_from_the_top() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 64)
    for arm in recurrent.ARMS:
        model = recurrent.Reader(8, 1, 10, arm, seed=0).eval()
        seen: list[torch.Tensor] = []
        model.cell.register_forward_hook(lambda _, args, __, seen=seen: seen.append(args[0]))  # type: ignore[misc]
        assert model(x).shape == (4, 10)
        assert torch.equal(seen[0][2], x[:, 16:24])


def test_input_batch_norm_without_its_norm_is_torchs_lstm() -> None:
    plain = recurrent.Reader(8, 1, 10, "plain", seed=0)
    normed = recurrent.Reader(8, 1, 10, "input", seed=0)
    normed.cell.norm = torch.nn.Identity()
    x = torch.randn(4, 64)
    torch.testing.assert_close(normed(x), plain(x))
