"""Settings that make sense, and presets that show what their sentences say."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest

from gammabeta.lab.data.flat import load
from gammabeta.lab.demo.pair import Pair
from gammabeta.lab.demo.presets import DEFAULT, OPTIMIZERS, PRESETS, Settings, preset
from gammabeta.signal import Record, Run
from gammabeta.signal.summary import Summary


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"dataset": "digit"},
            "dataset='digit' is not known; did you mean 'digits'? Choices: digits, fashion-mnist",
        ),
        (
            {"activation": "rely"},
            "activation='rely' is not known; did you mean 'relu'? "
            "Choices: sigmoid, tanh, relu, gelu",
        ),
        ({"norm": "none"}, "norm='none' is not known; choices: batch, layer, group, rms"),
        (
            {"optimizer": "adma"},
            "optimizer='adma' is not known; did you mean 'adam'? Choices: sgd, momentum, adam",
        ),
        ({"lr": 0.0}, "lr=0.0 must be a positive number, at most 1e+30"),
        ({"lr": -0.1}, "lr=-0.1 must be a positive number, at most 1e+30"),
        ({"lr": math.nan}, "lr=nan must be a positive number, at most 1e+30"),
        ({"lr": math.inf}, "lr=inf must be a positive number, at most 1e+30"),
        ({"lr": 1.1e30}, "lr=1.1e+30 must be a positive number, at most 1e+30"),
        ({"init_scale": math.nan}, "init_scale=nan must be a positive number, at most 1e+30"),
        ({"momentum": 0.0}, "momentum=0.0 must be a positive number, at most 1e+30"),
        ({"momentum": 1.5}, "momentum=1.5 must be at most 1"),
        ({"depth": 0}, "depth=0 must be between 1 and 64"),
        ({"depth": 65}, "depth=65 must be between 1 and 64"),
        ({"width": 0}, "width=0 must be between 1 and 4096"),
        ({"steps": 0}, "steps=0 must be between 1 and 1000000"),
        ({"steps": 1_000_001}, "steps=1000001 must be between 1 and 1000000"),
        ({"seed": -1}, "seed=-1 must be between 0 and 9223372036854775807"),
        (
            {"batch_size": 1},
            "batch_size=1 must be at least 2 (batch norm needs two values to have a variance)",
        ),
        ({"batch_size": 0, "norm": "layer"}, "batch_size=0 must be at least 1"),
    ],
    ids=str,
)
def test_bad_settings(changes: dict[str, Any], said: str) -> None:
    for make in (lambda: Settings(**changes), lambda: Settings().with_changes(**changes)):
        with pytest.raises(ValueError, match=r"must be|is not known") as caught:
            make()
        assert str(caught.value) == said


def test_the_edges_of_what_is_allowed() -> None:
    Settings(depth=64, width=4096, steps=1_000_000, seed=2**63 - 1, momentum=1.0, batch_size=2)
    Settings(depth=1, width=1, steps=1, seed=0, batch_size=1, norm="layer")


def test_a_change_that_is_none_is_none() -> None:
    settings = Settings(lr=0.5)
    assert settings.with_changes(lr=None, steps=None) == settings
    assert settings.with_changes(lr=0.25, steps=None) == Settings(lr=0.25)
    assert settings == Settings(lr=0.5)  # and the first is what it was


def test_presets_by_name() -> None:
    promised = {"healthy", "bold-lr", "bold-init", "saturating", "batch-of-two", "stale-statistics"}
    assert promised <= set(PRESETS)
    assert DEFAULT in PRESETS
    for name, one in PRESETS.items():
        assert preset(name) is one
        assert one.sentence.endswith(".")
        assert one.settings.dataset == "digits"  # all run without a download
    with pytest.raises(ValueError, match=r"preset='bold-ir' is not known; did you mean 'bold-"):
        preset("bold-ir")
    assert OPTIMIZERS == ("sgd", "momentum", "adam")


Signals = dict[tuple[int, int, str], Summary]


def run(name: str, steps: int, path: Path) -> tuple[Pair, Signals, Signals]:
    """The pair of a preset after ``steps``, and its first and last frames."""
    with Record(path) as record:
        pair = Pair(preset(name).settings.with_changes(steps=steps), load("digits"), record)
        for _ in pair.train():
            pass
    with Run(record.path) as recorded:
        places = {p.id: (p.arm, p.layer, p.stage) for p in recorded.probes()}
        by_step: dict[int, Signals] = {}
        for frame in recorded.frames():
            signals = by_step.setdefault(frame.step, {})
            signals.update({places[probe]: s for probe, s in frame.signals.items()})
    return pair, by_step[1], by_step[steps]


def saturated(signals: Signals, arm: int) -> list[float]:
    return [s.saturated or 0.0 for k, s in signals.items() if k[0] == arm and k[2] == "activation"]


def test_healthy_both_arms_learn(tmp_path: Path) -> None:
    pair, _, _ = run("healthy", 100, tmp_path / "run")
    assert all(arm.final_accuracy() > 0.9 for arm in pair.arms)


def test_bold_lr_drifts_into_saturation(tmp_path: Path) -> None:
    _, first, last = run("bold-lr", 60, tmp_path / "run")
    assert max(saturated(first, 0)) < 0.2
    assert max(saturated(last, 0)) > 0.5
    assert max(saturated(last, 1)) < 0.2


def test_bold_init_starts_saturated(tmp_path: Path) -> None:
    _, first, _ = run("bold-init", 1, tmp_path / "run")
    assert min(saturated(first, 0)) > 0.5
    assert max(saturated(first, 1)) < 0.2


def test_saturating_hands_on_less_gradient_at_each_layer(tmp_path: Path) -> None:
    _, first, _ = run("saturating", 1, tmp_path / "run")
    plain, steady = (
        [first[arm, layer, "z"].gradient or 0.0 for layer in (1, 2, 3, 4)] for arm in (0, 1)
    )
    assert all(before < after / 2 for before, after in itertools.pairwise(plain))
    assert steady[0] > 10 * plain[0]


def test_batch_of_two_leaves_nothing_but_signs(tmp_path: Path) -> None:
    pair, first, _ = run("batch-of-two", 100, tmp_path / "run")
    for layer in (1, 2, 3, 4):
        x_hat = first[1, layer, "normalized"]
        # ±1 but for ε: 1/√(1 + ε/σ²).
        assert (x_hat.p15, x_hat.p85) == (pytest.approx(-1, abs=0.01), pytest.approx(1, abs=0.01))
        assert max(-x_hat.minimum, x_hat.maximum) <= 1
    plain, steady = pair.arms
    assert steady.final_accuracy() < plain.final_accuracy()


def test_stale_statistics_train_well_and_fail_in_evaluation(tmp_path: Path) -> None:
    pair, _, _ = run("stale-statistics", 100, tmp_path / "run")
    _, steady = pair.arms
    assert pair.evaluate_in_training_mode(steady) > 0.9
    assert steady.final_accuracy() < 0.7
