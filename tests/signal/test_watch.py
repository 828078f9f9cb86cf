"""How a watch behaves: it leaves no trace, never breaks training, and records what it says."""

from __future__ import annotations

import copy
import gc
import io
import math
import re
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.signal import Cadence, Record, RecordError, Run, Watch
from gammabeta.signal.record import record_path
from gammabeta.signal.run import Frame, Scalar
from gammabeta.signal.schema import Summary
from gammabeta.signal.stages import LAYER_STAGES, PER_CHANNEL
from gammabeta.signal.summary import summarize
from tests.signal.recorded import fill_the_disk, same

# Many steps here are closed without a pass, on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:nothing was measured:RuntimeWarning")


def watch(model: Any, record: Any, **options: Any) -> Watch:
    """Watch with each step as a frame, unless a test chooses the frames."""
    if not {"every", "cadence", "budget"} & set(options):
        options["every"] = 1
    return gb.watch(model, record, **options)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            *(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(inplace=True), nn.Dropout(0.25)),
            *(nn.Linear(7, 6), gb.BatchNorm1d(6, activation="tanh")),
            nn.Linear(6, 3),
        )


def train(model: nn.Module, signal: Watch | None = None, steps: int = 3) -> list[float]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for step in range(steps):
        loss = model(drawn(16, 5, seed=step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if signal is not None:
            signal.step(loss=loss)
    return losses


PLACES = {
    *((row, stage) for row in ("0", "4") for stage in LAYER_STAGES),
    ("6", "z"),
    *((row, "weight") for row in ("0", "4", "6")),
    *((row, stage) for row in ("0", "4") for stage in PER_CHANNEL),
}
"""What is measured of `network`: names of rows, and stages."""


def hooks(model: nn.Module) -> list[int]:
    """How many hooks of any kind each module has."""
    return [
        sum(len(v) for k, v in vars(module).items() if "hooks" in k and isinstance(v, dict))
        for module in model.modules()
    ]


def frames_of(path: Path) -> list[Frame]:
    with Run(path.with_suffix(".sqlite")) as run:
        return list(run.frames())


def scalars_of(path: Path) -> list[Scalar]:
    with Run(path.with_suffix(".sqlite")) as run:
        return run.scalars()


def alike(summary: Summary, x: Tensor) -> None:
    """Whether ``summary`` is of ``x``, as far as a file keeps digits."""
    expected = summarize(x)
    assert summary.mean == pytest.approx(expected.mean, rel=1e-6, abs=1e-8)
    assert summary.std == pytest.approx(expected.std, rel=1e-6)
    assert torch.equal(summary.histogram, expected.histogram)


def places(path: Path) -> set[tuple[int, str, str]]:
    """Rows and stages of layers; not their parameters."""
    with Run(path.with_suffix(".sqlite")) as run:
        return {(p.layer, p.name, p.stage) for p in run.probes() if p.stage in LAYER_STAGES}


def measured(path: Path) -> list[dict[tuple[str, str], Summary]]:
    """What each frame holds: (row, stage) → summary."""
    with Run(path.with_suffix(".sqlite")) as run:
        probes = {p.id: (p.name, p.stage) for p in run.probes()}
        return [{probes[i]: s for i, s in frame.signals.items()} for frame in run.frames()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def torch_is_left_as_it_was() -> Iterator[None]:
    """No function mode stays on, and no stance of the compiler."""
    stance = torch._dynamo.eval_frame._stance.stance
    yield
    left = torch._dynamo.eval_frame._stance.stance
    torch.compiler.set_stance("default")  # one failure, not all that follow
    assert torch.overrides._get_current_function_mode_stack() == []
    assert left == stance == "default"


# No trace.


@pytest.mark.parametrize("raises", [False, True])
def test_the_model_trains_to_the_same_bits(path: Path, raises: bool) -> None:
    results = []
    for watched in (False, True):
        model = network()
        model[0].register_forward_hook(lambda *_: None)  # a person's own
        before = hooks(model)
        torch.manual_seed(3)
        if not watched:
            losses = train(model)
        else:
            try:
                with watch(model, path) as signal:
                    assert hooks(model) != before
                    losses = train(model, signal)
                    if raises:
                        raise InterruptedError
            except InterruptedError:
                pass
        assert hooks(model) == before
        assert all(module.training for module in model.modules())
        results.append((losses, copy.deepcopy(model.state_dict()), torch.get_rng_state()))
    (losses, state, rng), (watched_losses, watched_state, watched_rng) = results
    assert watched_losses == losses
    assert list(watched_state) == list(state)
    assert all(torch.equal(watched_state[k], state[k]) for k in state)
    assert torch.equal(watched_rng, rng)
    assert len(frames_of(path)) == 3


def test_watching_changes_no_gradient(path: Path) -> None:
    model = network().eval()
    model.train()
    model[3].p = 0.0
    model(drawn(16, 5)).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model = network()
    model[3].p = 0.0
    with watch(model, path):
        x = drawn(16, 5).requires_grad_()
        model(x).square().mean().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
    assert x.grad is not None


def test_closing_twice(path: Path) -> None:
    model = network()
    signal = watch(model, path)
    train(model, signal, 1)
    signal.close("interrupted")
    signal.close("finished")
    assert sum(hooks(model)) == 0
    with Run(path.with_suffix(".sqlite")) as run:
        assert run.status() == "interrupted"
    with pytest.raises(RecordError, match="is closed"):
        signal.step(loss=1.0)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (KeyboardInterrupt, "interrupted"), (ZeroDivisionError, "failed")],
    ids=str,
)
def test_how_it_ended(path: Path, error: type[BaseException] | None, status: str) -> None:
    model = network()

    def work() -> None:
        with watch(model, path) as signal:
            train(model, signal, 2)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    with Run(path.with_suffix(".sqlite")) as run:
        assert run.status() == status
        assert len(list(run.frames())) == 2
    assert sum(hooks(model)) == 0


@pytest.mark.parametrize(
    "model", [None, "resnet", network().state_dict()], ids=["None", "name", "state"]
)
def test_not_a_module(path: Path, model: Any) -> None:
    with pytest.raises(TypeError, match=r"^model is a (NoneType|str|OrderedDict); .*Module"):
        watch(model, path)
    assert not path.with_suffix(".sqlite").exists()


# Copies.


def clone(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    ("duplicate", "when"),
    [
        (copy.deepcopy, "before"),
        (copy.deepcopy, "between"),
        (copy.deepcopy, "within"),
        (clone, "before"),
        (clone, "between"),
    ],
)
def test_a_copy_is_not_watched(path: Path, duplicate: Callable[..., nn.Module], when: str) -> None:
    model = network()
    twins: list[nn.Module] = []
    if when == "within":  # while a forward pass is being captured
        model[2].register_forward_hook(
            lambda *_: twins.append(duplicate(model)) if not twins else None
        )
    torch.manual_seed(0)
    with watch(model, path) as signal:
        if when == "before":
            twins.append(duplicate(model))
        train(model, signal, 1)
        if when == "between":
            twins.append(duplicate(model))
        state = {k: v.clone() for k, v in model.state_dict().items()}
        (twin,) = twins
        train(twin, steps=4)  # the copy trains, alone
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        train(model, signal, 2)
        assert signal.steps == 3
    assert [f.step for f in frames_of(path)] == [1, 2, 3]
    first, *others = measured(path)
    assert set(first) == PLACES
    # Parameters and running statistics are measured in some frames only, everything else in all.
    always = {place for place in PLACES if place[1] in LAYER_STAGES}
    assert all(PLACES >= set(frame) >= always for frame in others)
    # and it can be watched itself
    with watch(twin, path.with_name("twin")) as signal:
        train(twin, signal, 2)
    assert len(frames_of(path.with_name("twin"))) == 2


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


# The disk.


def test_a_full_disk_warns_once_and_training_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, pages=18)
    expected = train_alone(steps=25)
    model = network()
    torch.manual_seed(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with watch(model, path) as signal:
            losses = []
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(25):
                loss = model(drawn(16, 5, seed=step)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
                signal.record.flush()
                losses.append(loss.item())
    assert losses == expected
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(warning.message) == (
        f"recording stopped, training continues: {path}.sqlite: database or disk is full"
    )
    assert warning.filename == __file__  # the person's line, not ours
    monkeypatch.undo()
    steps = [f.step for f in frames_of(path)]
    assert steps == list(range(1, len(steps) + 1))
    assert 1 <= len(steps) < 25


def train_alone(steps: int) -> list[float]:
    model = network()
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        loss = model(drawn(16, 5, seed=step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# Models of other shapes.


def test_one_record_for_several_models(path: Path) -> None:
    with Record(path) as record:
        models = [network(seed) for seed in (0, 1)]
        signals = [watch(m, record, arm=name) for m, name in zip(models, "ab", strict=True)]
        for model, signal in zip(models, signals, strict=True):
            train(model, signal, 2)
        for signal in signals:
            signal.close()
        record.flush()
        with Run(record.path) as run:
            assert run.status() == "running"  # the record is not the watches' to end
    with Run(record.path) as run:
        assert run.arms() == {0: "a", 1: "b"}
        assert [(f.arm, f.step) for f in run.frames()] == [(0, 1), (0, 2), (1, 1), (1, 2)]
        assert run.status() == "finished"


def test_one_model_watched_twice(path: Path) -> None:
    model = network()
    with watch(model, path) as outer, watch(model, path.with_name("other")) as inner:
        model(drawn(16, 5)).square().mean().backward()
        outer.step()
        inner.step()
    (one,), (other,) = measured(path), measured(path.with_name("other"))
    assert set(one) == set(other) == PLACES
    assert all(same(one[place], other[place], rel=0) for place in PLACES)


@pytest.mark.parametrize(
    ("model", "stages"),
    [
        (nn.Linear(5, 5), {"z"}),
        (nn.BatchNorm1d(5), {"z", "normalized", "affine"}),
        (gb.LayerNorm(5, activation="relu"), {"z", "normalized", "affine", "activation"}),
    ],
    ids=lambda v: type(v).__name__,
)
def test_a_model_of_one_module(path: Path, model: nn.Module, stages: set[str]) -> None:
    with watch(model, path) as signal:
        model(drawn(16, 5))
        signal.step(loss=1.0)
    name = type(model).__name__
    with Run(path.with_suffix(".sqlite")) as run:
        probes = {(p.layer, p.name, p.stage) for p in run.probes()}
    assert places(path) == {(1, name, stage) for stage in stages}
    assert {(layer, row) for layer, row, _ in probes} == {(1, name)}  # parameters, too


def test_an_activation_alone_is_a_row(path: Path) -> None:
    """A function that no layer comes before: its input is z, and its name that of the row."""
    with watch(nn.ReLU(), path) as signal:
        signal._model(drawn(16, 5))
        signal.step(loss=1.0)
    assert places(path) == {(1, "relu", "z"), (1, "relu", "activation")}


class Shared(nn.Module):
    """The same block, or the same part of it, several times over."""

    def __init__(self, share: str) -> None:
        super().__init__()
        linears = [nn.Linear(6, 6) for _ in range(3)]
        norms = [nn.BatchNorm1d(6) for _ in range(3)]
        acts: list[nn.Module] = [nn.Tanh() for _ in range(3)]
        self.linears = nn.ModuleList(linears[:1] * 3 if "linear" in share else linears)
        self.norms = nn.ModuleList(norms[:1] * 3 if "norm" in share else norms)
        self.acts = nn.ModuleList(acts[:1] * 3 if "act" in share else acts)
        self.head = nn.Linear(6, 2)

    def forward(self, u: Tensor) -> Tensor:
        for linear, norm, act in zip(self.linears, self.norms, self.acts, strict=True):
            u = act(norm(linear(u)))
        return self.head(u)


FOUR = ("z", "normalized", "affine", "activation")


@pytest.mark.parametrize("share", ["act", "norm", "norm act"])
def test_layers_may_share_a_norm_and_an_activation(path: Path, share: str) -> None:
    model = Shared(share)
    with watch(model, path) as signal:
        model(drawn(16, 6)).square().mean().backward()
        signal.step()
    assert places(path) == {
        *((n + 1, f"linears.{n}", s) for n in range(3) for s in FOUR),
        (4, "head", "z"),
    }
    u = drawn(16, 6)
    (frame,) = measured(path)
    with torch.no_grad():
        for n in range(3):
            z = model.linears[n](u)
            y = model.norms[n](z)
            u = model.acts[n](y)
            for stage, x in (("z", z), ("affine", y), ("activation", u)):
                alike(frame[f"linears.{n}", stage], x)


def test_a_block_called_again_is_one_layer(path: Path) -> None:
    """Only its first call is measured: the second is not taken for a layer of another name."""
    model = Shared("linear norm act")
    with watch(model, path) as signal:
        for step in range(2):
            model(drawn(16, 6, seed=step)).square().mean().backward()
            signal.step()
    assert places(path) == {*((1, "linears.0", s) for s in FOUR), (2, "head", "z")}
    for step, frame in enumerate(measured(path)):
        assert {place for place in frame if place[1] in FOUR} == {
            *(("linears.0", s) for s in FOUR),
            ("head", "z"),
        }
        alike(frame["linears.0", "z"], model.linears[0](drawn(16, 6, seed=step)))


class Several(nn.Module):
    """Two norms in a row, a norm of the input, a functional activation."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LayerNorm(5)
        self.linear = nn.Linear(5, 6)
        self.batch, self.layer = nn.BatchNorm1d(6), nn.LayerNorm(6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.layer(self.batch(self.linear(self.first(x))))))


def test_several_norms(path: Path) -> None:
    model = Several()
    with watch(model, path) as signal:
        model(drawn(16, 5))
        signal.step()
    normed = ("z", "normalized", "affine")
    assert places(path) == {
        *((1, "first", s) for s in normed),
        *((2, "linear", s) for s in normed),
        *((3, "layer", s) for s in (*normed, "activation")),
        (4, "head", "z"),
    }


class ByKeyword(nn.Module):
    """Calls its layers by keyword."""

    def __init__(self, norm: nn.Module, keyword: str) -> None:
        super().__init__()
        self.linear, self.norm, self.head = nn.Linear(5, 6), norm, nn.Linear(6, 2)
        self.keyword = keyword

    def forward(self, u: Tensor) -> Tensor:
        return self.head(self.norm(**{self.keyword: self.linear(input=u)}))


@pytest.mark.parametrize(
    ("norm", "keyword"), [(nn.BatchNorm1d(6), "input"), (gb.RMSNorm(6), "x")], ids=str
)
def test_layers_called_by_keyword(path: Path, norm: nn.Module, keyword: str) -> None:
    model = ByKeyword(norm, keyword)
    with watch(model, path) as signal:
        model(drawn(16, 5)).sum().backward()
        signal.step()
    assert places(path) == {
        *((1, "linear", s) for s in ("z", "normalized", "affine")),
        (2, "head", "z"),
    }


class Checkpointed(nn.Module):
    """Recomputes its block in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh())
        self.head = nn.Linear(6, 2)

    def forward(self, u: Tensor) -> Tensor:
        return self.head(checkpoint(self.block, u, use_reentrant=False))


def test_recomputation_is_not_measured_again(path: Path) -> None:
    model = Checkpointed()
    model(drawn(16, 5)).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    with watch(model, path) as signal:
        model(drawn(16, 5)).square().mean().backward()
        signal.step()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
    (frame,) = measured(path)
    assert set(frame) == {
        *(("block.0", s) for s in (*FOUR, "weight", "gamma", "beta")),
        *(("head", s) for s in ("z", "weight")),
    }
    assert all(s.gradient is not None for (_, stage), s in frame.items() if stage in FOUR)


def test_under_autocast(path: Path) -> None:
    model = network()
    model[3].p = 0.0
    with watch(model, path) as signal, torch.autocast("cpu", dtype=torch.bfloat16):
        model(drawn(16, 5)).square().mean().backward()
        signal.step()
    (frame,) = measured(path)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        z = model[0](drawn(16, 5))
    assert z.dtype == torch.bfloat16
    alike(frame["0", "z"], z)
    x_hat = F.batch_norm(z.double(), None, None, training=True)
    # x̂ is made from the norm's output, in float32; but that one is rounded to bfloat16, by 2⁻⁹.
    recorded = frame["0", "normalized"]
    assert recorded.std == pytest.approx(float(x_hat.std(correction=0)), rel=2**-9)
    assert recorded.maximum == pytest.approx(float(x_hat.max()), rel=2**-8)


def test_layers_left_out_of_some_passes(path: Path) -> None:
    """Stochastic depth: a frame holds what was called, under its own name."""

    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(5, 5) for _ in range(3))
            self.act, self.skip = nn.Tanh(), False

        def forward(self, u: Tensor) -> Tensor:
            u = self.act(self.a(u))
            u = u if self.skip else self.act(self.b(u))
            return self.act(self.c(u))

    model = Skipping()
    with watch(model, path) as signal:
        for skip in (False, True, False):
            model.skip = skip
            model(drawn(16, 5))
            signal.step()
    assert places(path) == {
        (n, name, s) for n, name in enumerate("abc", 1) for s in ("z", "activation")
    }
    kept = [{row for row, stage in f if stage in LAYER_STAGES} for f in measured(path)]
    assert kept == [{"a", "b", "c"}, {"a", "c"}, {"a", "b", "c"}]
    # The weights of what was left out are there all the same, in the frames that have any.
    weights = [{row for row, stage in f if stage == "weight"} for f in measured(path)]
    assert weights[0] == {"a", "b", "c"}
    assert all(found in (set(), {"a", "b", "c"}) for found in weights)


def test_two_models_cannot_share_an_arm(tmp_path: Path) -> None:
    with Record(tmp_path / "shared") as record, watch(nn.Linear(2, 2), record, arm="a"):
        with pytest.raises(ValueError, match="arm='a' already exists in this record"):
            watch(nn.Linear(2, 2), record, arm="a")
        watch(nn.Linear(2, 2), record, arm="b").close()
    with Run(record.path) as run:
        assert list(run.arms().values()) == ["a", "b"]


class Loss(nn.Module):
    """Is used through a method of its own, not by being called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def loss(self, x: Tensor) -> Tensor:
        return self.linear(x).square().mean()


@pytest.mark.filterwarnings("default:nothing was measured")
@pytest.mark.parametrize(
    ("model", "use", "words"),
    [
        (Loss(), Loss.loss, "was not called since the last step"),
        (nn.Linear(5, 2).eval(), nn.Module.__call__, r"the model is in eval\(\)"),
        (nn.Softmax(1), nn.Module.__call__, "no function with weights was called"),
    ],
    ids=["not called", "evaluation", "no layer"],
)
def test_a_watch_that_measures_nothing_says_why_once(
    path: Path, model: nn.Module, use: Callable[..., Tensor], words: str
) -> None:
    with watch(model, path) as signal:
        use(model, drawn(16, 5))
        with pytest.warns(RuntimeWarning, match=words):
            signal.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.step()


def test_a_signal_that_cannot_be_measured_costs_no_training(path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64)
    )
    x = drawn(8, 3).to(torch.cfloat)
    expected = model(x)
    with watch(model, path) as signal:
        assert torch.equal(model(x), expected)
        with pytest.warns(RuntimeWarning, match="0: complex tensors cannot be measured"):
            signal.step(loss=1.0)
    assert frames_of(path) == []
    assert len(scalars_of(path)) == 1


def test_a_loss_that_is_not_one_number_is_refused_and_no_step(path: Path) -> None:
    with watch(network(), path) as signal:
        with pytest.raises(ValueError, match=r"loss has shape \(3,\); give one number"):
            signal.step(loss=torch.ones(3))
        assert signal.steps == 0


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_compiled_model_is_recorded_and_stays_compiled(
    path: Path, warm: bool, inside: bool
) -> None:
    torch.compiler.reset()
    compiled_graphs = []
    ran: list[str] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        compiled_graphs.append(graph)

        def run(*args: Any) -> Any:
            ran.append("compiled")
            return graph.forward(*args)

        return run

    model = nn.Sequential(nn.Linear(5, 7), gb.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    compiled = torch.compile(model, backend=backend)
    if warm:
        compiled(drawn(16, 5)).sum().backward()
    cadence = Cadence(early=2, ratio=math.inf)
    times = []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(compiled, path, cadence=cadence, uncompiled=inside) as signal:
            for seed in range(4):
                ran.clear()
                compiled(drawn(16, 5, seed=seed)).sum().backward()
                times.append(len(ran))
                signal.step()
    assert [frame.step for frame in frames_of(path)] == [1, 2]
    outside = [
        "not measured inside: the model: compiled, seen from outside with its parameters; "
        "uncompiled=True runs the recorded passes uncompiled, to see inside"
    ]
    assert [str(w.message) for w in said] == ([] if inside else outside)
    first = measured(path)[0]
    parameters = {("0", "weight"), ("3", "weight"), *(("0", s) for s in PER_CHANNEL)}
    if inside:
        stages = {(1, "0", s) for s in ("z", "normalized", "affine", "activation")}
        assert places(path) == stages | {(2, "3", "z")}
        assert set(first) == {place[1:] for place in places(path)} | parameters
        assert times == [0, 0, 1, 1]
    else:
        ((_, name, stage),) = places(path)
        assert (name, stage) == ("Sequential", "z")
        # γ and β are under the norm's own name: which layer it belongs to is not seen.
        own = {("1" if stage in PER_CHANNEL else row, stage) for row, stage in parameters}
        assert set(first) == {(name, stage), *own}
        assert times == [1, 1, 1, 1]
    assert compiled_graphs
    assert not model[0]._forward_hooks


def test_what_stands_between_a_layers_parts_does_not_part_them(path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(5, 8),
        nn.Dropout(0.5),
        nn.BatchNorm1d(8),
        nn.Identity(),
        nn.Hardtanh(),
        nn.Linear(8, 2),
    )
    with watch(model, path) as signal:
        model(drawn(16, 5)).sum().backward()
        signal.step()
    stages = ("z", "normalized", "affine", "activation")
    assert places(path) == {*((1, "0", s) for s in stages), (2, "5", "z")}
    with Run(record_path(path)) as run:
        activations = {(p.layer, p.activation) for p in run.probes() if p.stage in stages}
    assert activations == {(1, "hardtanh"), (2, None)}


# What a person may give that will not do.


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": 5}, "model is a int; give a torch.nn.Module"),
        ({"model": nn.Linear}, "model is a type; give a torch.nn.Module"),
        ({"record": 5}, "record is a int; give a path or a gammabeta.Record"),
        ({"record": None}, "record is a NoneType; give a path or a gammabeta.Record"),
        ({"record": b"run"}, "record is a bytes; give a path or a gammabeta.Record"),
        ({"arm": 3}, "arm is a int; give a name, such as 'model'"),
        ({"arm": None}, "arm is a NoneType; give a name, such as 'model'"),
        ({"cadence": 5}, "cadence is a int; give a gammabeta.Cadence"),
        ({"cadence": Cadence}, "cadence is a type; give a gammabeta.Cadence"),
        ({"title": 5}, "title is a int; give text"),
        ({"settings": 5}, "settings is a int; give a dict"),
        ({"settings": "lr=1"}, "settings is a str; give a dict"),
    ],
)
def test_an_argument_of_the_wrong_type(path: Path, arguments: dict[str, Any], said: str) -> None:
    model = network()
    before = hooks(model)
    with pytest.raises(TypeError) as caught:
        watch(**{"model": model, "record": path, **arguments})
    assert str(caught.value) == said
    assert hooks(model) == before
    assert list(path.parent.iterdir()) == []


def test_settings_that_are_too_deep(path: Path) -> None:
    settings: dict[str, Any] = {}
    for _ in range(100_000):
        settings = {"a": settings}
    with pytest.raises(TypeError, match="settings cannot be stored as JSON"):
        watch(network(), path, settings=settings)
    while settings:
        settings = settings["a"]
    assert list(path.parent.iterdir()) == []


class Odd:
    def __float__(self) -> float:
        raise ValueError("no number")


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("x", TypeError, "loss is a str; give one number, such as loss.item()"),
        ("1.5", TypeError, "loss is a str; give one number, such as loss.item()"),
        (b"1", TypeError, "loss is a bytes; give one number"),
        (1j, TypeError, "loss is a complex; give one number"),
        (torch.tensor(1j), TypeError, "loss is a complex; give one number"),
        (object(), TypeError, "loss is a object; give one number"),
        (Odd(), TypeError, "loss is a Odd; give one number"),
        ([1.0], TypeError, "loss is a list; give one number"),
        (np.array("x"), TypeError, "loss is a str; give one number"),
        (10**400, ValueError, "loss is too large for a float; give math.inf instead"),
        (torch.ones(2), ValueError, "loss has shape (2,); give one number, such as its mean"),
        (torch.ones(0), ValueError, "loss has shape (0,); give one number, such as its mean"),
        (np.ones((2, 1)), ValueError, "loss has shape (2, 1); give one number, such as its mean"),
        (torch.ones((), device="meta"), ValueError, "loss is on the meta device"),
    ],
)
def test_a_scalar_that_is_no_number(
    path: Path, value: Any, error: type[Exception], said: str
) -> None:
    with watch(network(), path) as signal:
        with pytest.raises(error, match=f"^{re.escape(said)}"):
            signal.step(loss=value)
        with pytest.raises(error, match=f"^{re.escape(said.replace('loss', 'accuracy', 1))}"):
            signal.step(loss=1.0, accuracy=value)
        assert signal.steps == 0
    assert scalars_of(path) == []


def test_a_scalar_that_is_none_is_named(path: Path) -> None:
    with watch(network(), path) as signal, pytest.raises(TypeError, match=r"^accuracy is a None"):
        signal.step(accuracy=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, math.nan, 1, True, np.float32(2), np.array([2.0]), torch.tensor([[2]])],
)
def test_a_loss_that_is_not_finite_never_ends_a_training(path: Path, value: Any) -> None:
    with watch(network(), path) as signal:
        signal.step(loss=value)
        signal.step(loss=torch.as_tensor(value))
    expected = float(np.asarray(value).item())
    assert [str(s.value) for s in scalars_of(path)] == [str(expected)] * 2


def test_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    with watch(network(), "~/runs/first") as signal:
        assert signal.record.path == path.parent / "runs/first.sqlite"
    with Run("~/runs/first.sqlite") as run:
        written = gb.export(run, "~/page.html")
    assert written == path.parent / "page.html"
    with pytest.raises(RecordError, match="names no home folder"):
        watch(network(), "~nobody-here/first")


def test_a_model_on_the_cpu_under_another_default_device(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), gb.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    x = torch.randn(8, 4)
    with torch.device("meta"), watch(model, tmp_path / "a") as signal:
        loss = model(x).square().mean()
        loss.backward()
        signal.step(loss=loss)
    with Run(tmp_path / "a.sqlite") as run:
        (frame,) = run.frames()
        probes = {probe.id: (probe.name, probe.stage) for probe in run.probes()}
        assert {probes[i] for i in frame.signals} == {
            *(("0", stage) for stage in (*LAYER_STAGES, "weight", *PER_CHANNEL)),
            *(("3", stage) for stage in ("z", "weight")),
        }
        assert all(int(summary.histogram.sum()) > 0 for summary in frame.signals.values())


def test_a_module_that_cannot_be_asked_what_it_is_does_not_end_the_training(tmp_path: Path) -> None:
    class Odd(nn.LayerNorm):
        def __getattribute__(self, name: str) -> Any:
            if name == "parameters":
                raise OSError("not here")
            return super().__getattribute__(name)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = nn.Sequential(nn.Linear(4, 4), Odd(4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, tmp_path / "a") as signal:
            for _ in range(3):
                model(torch.randn(2, 4)).sum().backward()
                signal.step(loss=1.0)
    (message,) = {str(w.message) for w in said}  # once, with the true reason
    assert message.startswith("a signal could not be measured, training continues")
    assert "not here" in message
    assert [s.value for s in scalars_of(tmp_path / "a")] == [1.0, 1.0, 1.0]


def test_a_gradient_that_cannot_be_measured_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is sharded where its signal is not."""

    def fails(*_: object) -> float:
        raise RuntimeError("got mixed torch.Tensor and DTensor")

    monkeypatch.setattr("gammabeta.signal.rows.Signal.take_gradient", fails)
    model = network()
    twin = copy.deepcopy(model)
    torch.manual_seed(3)  # of the dropout
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, tmp_path / "run") as signal:
            losses = train(model, signal)
    (message,) = {str(w.message) for w in said}
    assert message.startswith("a signal could not be measured, training continues")
    assert "got mixed torch.Tensor and DTensor" in message
    torch.manual_seed(3)
    assert losses == train(twin)


class Normed(nn.Module):
    """A part with a forward of its own around a norm of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x)))


def test_a_pass_is_let_go_without_the_garbage_collector(path: Path) -> None:
    """Tensors in a cycle would stay until it runs, and a large network would fill the memory."""
    model = nn.Sequential(Normed(), Normed(), gb.BatchNorm1d(5, activation="relu"), Normed())
    outputs: list[weakref.ref[Tensor]] = []

    def note(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        outputs.append(weakref.ref(output))

    for layer in model:
        layer.register_forward_hook(note)
    gc.collect()
    gc.disable()
    try:
        with watch(model, path, every=1) as signal:
            train(model, signal, 3)
            alive = [output for output in outputs if output() is not None]
    finally:
        gc.enable()
    assert len(outputs) == 3 * len(model)
    assert not alive
