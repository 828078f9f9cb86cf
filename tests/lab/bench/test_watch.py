"""The benchmark of the watch: what is timed, against what, and what is made of the figures."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from gammabeta.cli.bench import app
from gammabeta.lab.bench import watch as bench
from gammabeta.lab.bench import watch_growth
from gammabeta.lab.bench.results import Row, read
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.watch import Plan, measure_frame
from gammabeta.lab.bench.watch_growth import measure_disk, measure_memory
from gammabeta.lab.bench.watch_loop import alternate
from gammabeta.lab.bench.watch_nets import NETWORKS, load
from gammabeta.lab.bench.watch_report import (
    frame_ratio,
    line,
    networks_table,
    rival_ratio,
    run_cost,
    verdicts,
)
from gammabeta.lab.bench.watch_rivals import RIVALS, rival, tensors_like
from gammabeta.signal import Watch, watch
from tests.lab.bench.rows import SETTING


class Clock:
    """Advances only when `take` is called."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float) -> None:
        self.now += seconds


def test_each_round_times_each_contender_once_and_nothing_else() -> None:
    clock, calls = Clock(), []

    def contender(name: str, seconds: float) -> Any:
        def call() -> None:
            calls.append(name)
            clock.take(seconds)

        return call

    times = alternate(
        {"a": contender("a", 1.0), "b": contender("b", 2.0)},
        5,
        settle=lambda: clock.take(100.0),
        clock=clock,
    )
    assert times == {"a": [1.0] * 5, "b": [2.0] * 5}
    rounds = [tuple(calls[i : i + 2]) for i in range(0, len(calls), 2)]
    assert len(rounds) == 6  # one before those that are timed
    assert set(rounds) == {("a", "b"), ("b", "a")}
    with pytest.raises(ValueError, match="rounds=0 must be at least 1"):
        alternate({}, 0)


def test_a_frame_is_what_the_watch_adds_to_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = measure_frame(load("small", 2, 8), SETTING, rounds=2, rivals=())
    assert [(row.what, row.who) for row in rows] == [
        ("step", "plain"),
        ("frame", "frame"),
        ("frame", "written"),
    ]
    assert all(row.rounds == 2 and row.unit == "s" for row in rows)
    probes = int(rows[0].note.split()[0])
    assert probes >= 8  # two layers of four stages

    times = {"plain": [1.0, 3.0], "frame": [1.5, 3.25], "written": [2.0, 4.0]}
    monkeypatch.setattr(bench, "alternate", lambda *_, **__: dict(times))
    _, frame, written = measure_frame(load("small", 2, 8), SETTING, rounds=2, rivals=())
    assert (frame.q50, written.q50) == (0.375, 1.0)  # medians of the differences in a round


def test_the_tensors_are_the_networks_own() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x = torch.randn(5, 4)
    first, second, cut, drawn = tensors_like([40, 40, 20, 1000], model, lambda: model(x))
    assert torch.equal(first, model[0](x))
    assert torch.equal(second, model[:2](x))
    assert torch.equal(cut, model[0](x).flatten()[:20])
    assert drawn.shape == (1000,)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("who", RIVALS)
def test_rivals_make_histograms(who: str, tmp_path: Path) -> None:
    pytest.importorskip("wandb" if who.startswith("wandb") else "tensorboard")
    with rival(who, [torch.randn(100), torch.zeros(4)], tmp_path) as call:
        call()
        call()
    if who == "add_histogram":
        (file,) = tmp_path.rglob("events*")
        assert file.stat().st_size > 200


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No library of another's."""
    for name in ("wandb", "torch.utils.tensorboard", "pytorchcv.model_provider", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
    return


@pytest.mark.usefixtures("alone")
def test_who_is_not_installed_is_named(tmp_path: Path) -> None:
    for who, package in zip(RIVALS, ("wandb", "tensorboard"), strict=True):
        with pytest.raises(Absent, match=f"pip install {package}"), rival(who, [], tmp_path):
            pass
    for name in NETWORKS[:-1]:
        with pytest.raises(Absent, match="is not installed: pip install"):
            load(name, 2, 32)
    rows = measure_frame(load("small", 2, 8), SETTING, rounds=1)
    missing = {row.who: row.note for row in rows if math.isnan(row.q50)}
    assert missing.keys() == set(RIVALS)
    plan = Plan(["resnet18", "small"], 2, 8, rounds=1, steps=0, soak=0, record=0)
    (absent,), small = bench.measure(plan, SETTING)
    assert line([absent]).startswith("resnet18: pytorchcv is not installed")
    assert networks_table([absent, *small]).splitlines()[1].startswith("small ")


def test_a_run_is_watched_at_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[tuple[Watch, float, dict[str, Any]]] = []

    def spy(model: nn.Module, path: Path, **options: Any) -> Watch:
        signal = watch(model, path, **options)
        began.append((signal, signal._began, options))
        return signal

    monkeypatch.setattr(bench, "watch", spy)
    plain, watched = bench.measure_run(load("small", 2, 8), SETTING, steps=25, block=10)
    assert [(row.what, row.who) for row in (plain, watched)] == [
        ("run", "plain"),
        ("run", "watched"),
    ]
    assert all(row.q50 > 0 and row.note.startswith("25 steps, ") for row in (plain, watched))
    ((signal, first, options),) = began
    assert options == {}
    # The budget is a share of the time of the watched steps alone.
    assert signal._began - first == pytest.approx(plain.q50, rel=0.05)


def test_the_doctor_is_charged_for_what_it_takes() -> None:
    run, doctor = bench.measure_doctor(load("small", 2, 8), SETTING, steps=5)
    assert (run.who, doctor.who, doctor.note) == ("run", "doctor", "5 steps")
    assert 0 < doctor.q50 < run.q50


def test_memory_that_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    held = iter(range(10**6, 10**9, 3000))  # 3,000 bytes in two frames
    monkeypatch.setattr(watch_growth, "resident_bytes", lambda: next(held))
    (row,) = measure_memory(SETTING, frames=40, samples=20)
    assert row.unit == "bytes/frame"
    assert row.q50 == pytest.approx(1500)
    (verdict,) = verdicts([row])
    assert verdict.value == pytest.approx(1500 * 86400 / 2**20)
    assert verdict.word == "missed"


def test_the_size_is_of_a_thousand_probes_and_frames() -> None:
    (row,) = measure_disk(SETTING, frames=5, layers=3)
    assert "for 12 probes × 5 frames" in row.note
    megabytes = float(row.note.split()[0])
    assert row.q50 / 1e6 == pytest.approx(megabytes / 60 * 1e6, rel=0.5)
    assert row.unit == "bytes"


@pytest.mark.parametrize("name", NETWORKS)
def test_each_network_trains(name: str) -> None:
    pytest.importorskip("transformers" if name == "gpt2" else "pytorchcv")
    network = load(name, 2, 32 if name == "small" else 64)
    loss = network.loss(network.model)
    loss.backward()  # type: ignore[no-untyped-call]
    assert math.isfinite(loss.item())
    again = load(name, 2, 32 if name == "small" else 64)
    pairs = zip(network.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(p, q) for p, q in pairs)


# The report.


def row(what: str, who: str, value: float, case: str = "net", **changes: Any) -> Row:
    told = {"dtype": "fp32", "layout": "nchw", "shape": "4x3x8x8", "unit": "s", **changes}
    figures = {"q20": value, "q50": value, "q80": value}
    return Row(SETTING, "watch", case=case, what=what, who=who, **figures, **told)


ROWS = [
    row("step", "plain", 2.0),
    row("frame", "frame", 0.1),
    row("frame", "written", 0.2),
    row("frame", "wandb.Histogram", 3.0),
    row("frame", "add_histogram", 8.0),
    row("run", "plain", 100.0, note="300 steps, 40 frames"),
    row("run", "watched", 101.0, note="300 steps, 40 frames"),
    row("doctor", "run", 100.0, note="300 steps"),
    row("doctor", "doctor", 0.5, note="300 steps"),
]
OTHERS = [
    row("memory", "watched", 10.0, "small layers", unit="bytes/frame"),
    row("record", "watched", 250e6, "250 layers", unit="bytes"),
]


def test_verdicts_are_of_the_right_ratios() -> None:
    found = {v.of: v for v in verdicts([*ROWS, *OTHERS])}
    assert {of: (round(v.value, 6), v.word) for of, v in found.items()} == {
        "net: frame ÷ step": (0.05, "met"),
        "net: watched run, longer by": (1.0, "met"),
        "net: the doctor's share of a run": (0.5, "met"),
        "wandb.Histogram ÷ frame, least": (15.0, "met"),
        "add_histogram ÷ frame, least": (40.0, "missed"),
        "memory, growth a day at one frame a second": (round(10 * 86400 / 2**20, 6), "met"),
        "record of 1,000 probes × 1,000 frames": (250.0, "met"),
    }
    assert found["net: watched run, longer by"].note == "300 steps, 40 frames"
    assert found["net: frame ÷ step"].note == "20 % to 80 %: 0.050 to 0.050"


def test_the_worst_network_counts() -> None:
    worse = [row("step", "plain", 2.0, "other"), row("frame", "written", 0.2, "other")]
    worse.append(row("frame", "wandb.Histogram", 1.0, "other"))
    (verdict,) = [v for v in verdicts([*ROWS, *worse]) if v.of.startswith("wandb")]
    assert (verdict.value, verdict.note, verdict.word) == (5.0, "other", "missed")
    words = {v.of: v.word for v in verdicts(worse)}
    assert words["other: frame ÷ step"] == "not measured"


def test_a_line_a_network() -> None:
    absent = row("step", "plain", math.nan, "absent", note="not installed")
    lines = networks_table([*ROWS, absent, *OTHERS]).splitlines()
    assert [" ".join(line.split()) for line in lines[1:]] == [
        "net 4×3×8×8 2000.0 100.00 0.050 0.100 +1.00 0.50 15.0 40.0"
    ]
    assert line(ROWS) == "net: a frame costs 0.050 of a step, 300 steps, 40 frames +1.00 %"


def test_a_writer_that_costs_nothing_has_no_ratio() -> None:
    """Where the difference of two times is noise, there is no ratio to it."""
    medians = {("step", "plain"): 1.0, ("frame", "written"): -0.1, ("frame", "add_histogram"): 1.0}
    assert math.isnan(rival_ratio(medians, "add_histogram"))
    assert math.isnan(run_cost(medians))
    assert frame_ratio(medians, "written") == -0.1


# The command.


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": ["resnet81"]}, "models='resnet81' is not known; did you mean 'resnet18'?"),
        ({"batch": 1}, "batch=1 must be between 2 and 4096"),
        ({"size": 0}, "size=0 must be between 1 and 4096"),
        ({"rounds": 0}, "rounds=0 must be between 1 and 10000"),
        ({"steps": -1}, "steps=-1 must be between 0 and 1000000"),
        ({"models": [], "soak": 0, "record": 0}, "nothing to measure"),
    ],
)
def test_a_mistake_is_named(changes: dict[str, Any], said: str) -> None:
    plan = {"batch": 4, "size": 32, "rounds": 1, "steps": 1, "soak": 1, "record": 1}
    with pytest.raises(ValueError, match=said.split(";")[0].replace("?", r"\?")):
        Plan(**{"models": ["small"], **plan, **changes})


def test_the_command_measures_prints_and_writes(tmp_path: Path) -> None:
    args = ["watch", "--quick", "--threads", "1", "--out", str(tmp_path)]
    out = CliRunner().invoke(app, args, catch_exceptions=False)
    assert out.exit_code == 0, out.output
    assert "1/3  small: a frame costs " in out.output
    assert "add_histogram ÷ frame, least" in out.output
    assert "record of 1,000 probes × 1,000 frames" in out.output
    assert {row.what for row in read(tmp_path / "watch.csv")} == {
        *("step", "frame", "run", "doctor", "memory", "record"),
    }
