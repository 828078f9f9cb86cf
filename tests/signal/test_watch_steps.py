"""Which passes and steps become frames, and the numbers of a step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import Cadence, Watch
from gammabeta.signal.stages import LAYER_STAGES, PER_CHANNEL
from gammabeta.signal.summary import summarize
from tests.signal.recorded import same
from tests.signal.watched import (
    PLACES,
    alike,
    drawn,
    frames_of,
    measured,
    network,
    scalars_of,
    train,
    watch,
)

# Many steps here are closed without a pass, on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing was measured:RuntimeWarning"),
    pytest.mark.usefixtures("torch_is_left_as_it_was"),
]


# Which forward passes.


def test_evaluation_is_not_recorded(path: Path) -> None:
    model = network()
    with watch(model, path) as signal:
        model.eval()
        model(drawn(16, 5))
        signal.step(loss=1.0)
        model.train()
        model(drawn(16, 5, seed=1))
        model.eval()
        model(drawn(16, 5, seed=2))
        signal.step(loss=2.0)
    (frame,) = frames_of(path)
    assert frame.step == 2
    assert [(s.step, s.value) for s in scalars_of(path)] == [(1, 1.0), (2, 2.0)]
    z = replace(measured(path)[0]["0", "z"], saturated=None, dead=None)
    assert same(z, summarize(model[0](drawn(16, 5, seed=1))))


def test_of_several_passes_the_first_is_recorded(path: Path) -> None:
    model = network()
    model[3].p = 0.0
    with watch(model, path) as signal:
        for seed in range(3):  # three micro-batches, one step
            model(drawn(16, 5, seed=seed)).square().mean().backward()
        signal.step()
    (frame,) = measured(path)
    first = summarize(model[0](drawn(16, 5)))
    recorded = frame["0", "z"]
    assert same(replace(recorded, gradient=None, saturated=None, dead=None), first)
    alone = network()
    alone[3].p = 0.0
    z = alone[0](drawn(16, 5))
    (gradient,) = torch.autograd.grad(alone[1:](z).square().mean(), z)
    assert recorded.gradient == pytest.approx(float(gradient.norm()), rel=1e-5)


def test_a_step_without_a_pass_is_no_frame(path: Path) -> None:
    model = network()
    with watch(model, path) as signal:
        signal.step(loss=1.0)
        model(drawn(16, 5))
        signal.step(loss=2.0)
        signal.step(loss=3.0)
    assert [f.step for f in frames_of(path)] == [2]
    assert [s.value for s in scalars_of(path)] == [1.0, 2.0, 3.0]


def test_the_cadence_decides(path: Path) -> None:
    cadence = Cadence(early=2, ratio=2.0, last=11)
    model = network()
    with watch(model, path, cadence=cadence) as signal:
        train(model, signal, 12)
    assert [f.step for f in frames_of(path)] == [1, 2, 4, 8, 11]
    assert [s.step for s in scalars_of(path)] == list(range(1, 13))


def test_without_gradients(path: Path) -> None:
    model = network()
    with watch(model, path) as signal, torch.no_grad():
        model(drawn(16, 5))
        signal.step()
    (frame,) = measured(path)
    assert set(frame) == PLACES
    assert all(s.gradient is None for s in frame.values())


class Fragile(nn.Module):
    """Fails in the middle of its forward pass when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh()
        self.head = nn.Linear(7, 2)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        if self.fails:
            raise InterruptedError
        return self.head(self.act(x))


@pytest.fixture
def failed(path: Path) -> Iterator[tuple[Fragile, Watch]]:
    """A watched model whose first forward pass has raised."""
    model = Fragile()
    with watch(model, path) as signal:
        model.fails = True
        with pytest.raises(InterruptedError):
            model(drawn(16, 5))
        model.fails = False
        yield model, signal


def test_after_a_pass_that_raised_training_is_recorded(
    failed: tuple[Fragile, Watch], path: Path
) -> None:
    model, signal = failed
    model(drawn(16, 5, seed=1)).square().mean().backward()
    signal.step(loss=1.0)
    signal.record.flush()
    (frame,) = measured(path)
    assert set(frame) == {
        *(("first", stage) for stage in (*LAYER_STAGES, "weight", *PER_CHANNEL)),
        *(("head", stage) for stage in ("z", "weight")),
    }
    alike(frame["first", "z"], model.first(drawn(16, 5, seed=1)))
    with_gradient = {place for place, s in frame.items() if s.gradient is not None}
    assert with_gradient == {place for place in frame if place[1] not in PER_CHANNEL}


def test_after_a_pass_that_raised_evaluation_is_not_recorded(
    failed: tuple[Fragile, Watch], path: Path
) -> None:
    model, signal = failed
    model.eval()
    model(drawn(16, 5))
    signal.step(loss=1.0)
    signal.record.flush()
    assert frames_of(path) == []


def test_a_pass_that_raised_is_no_frame(failed: tuple[Fragile, Watch], path: Path) -> None:
    _, signal = failed
    signal.step(loss=1.0)
    signal.record.flush()
    assert frames_of(path) == []


def test_an_input_the_layer_refuses_is_the_layers_error(path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
    with watch(model, path) as signal:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(drawn(1, 5))
        model(drawn(16, 5))
        signal.step()
    (frame,) = measured(path)
    normed = ("z", "normalized", "affine")
    assert set(frame) == {("0", stage) for stage in (*normed, "weight", *PER_CHANNEL)}


# Numbers of a step.


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, 1e-300])
def test_any_loss(path: Path, value: float) -> None:
    model = network()
    with watch(model, path) as signal:
        signal.step(loss=value)
        signal.step(loss=torch.tensor(value, dtype=torch.float64, requires_grad=True))
    recorded = [s.value for s in scalars_of(path)]
    assert all(r == value or (math.isnan(r) and math.isnan(value)) for r in recorded)
    assert len(recorded) == 2


def test_a_network_that_blows_up_is_recorded_to_the_end(path: Path) -> None:
    model = network()
    with watch(model, path) as signal:
        train(model, signal, 1)
        with torch.no_grad():
            model[0].weight.fill_(math.nan)
        with pytest.warns(gb.NonFiniteBatchWarning):
            train(model, signal, 1)
    z = measured(path)[1]["0", "z"]
    assert z.nonfinite == 16 * 7
    assert math.isnan(z.mean)
    assert math.isnan(scalars_of(path)[1].value)


def test_more_scalars(path: Path) -> None:
    with watch(network(), path) as signal:
        signal.step(loss=torch.tensor(0.5), accuracy=0.75, rate=1)
        signal.step(accuracy=torch.tensor(0.8125))
        signal.step()
    assert [(s.step, s.name, s.value) for s in scalars_of(path)] == [
        (1, "loss", 0.5),
        (1, "accuracy", 0.75),
        (1, "rate", 1.0),
        (2, "accuracy", 0.8125),
    ]
