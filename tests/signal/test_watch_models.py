"""Models of every shape: several, shared, nested, compiled, called by keyword."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.signal import Cadence, Record, Run
from gammabeta.signal.record import record_path
from gammabeta.signal.stages import LAYER_STAGES, PER_CHANNEL
from tests.signal.recorded import same
from tests.signal.watched import (
    PLACES,
    alike,
    drawn,
    frames_of,
    measured,
    network,
    places,
    train,
    watch,
)

# Many steps here are closed without a pass, on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing was measured:RuntimeWarning"),
    pytest.mark.usefixtures("torch_is_left_as_it_was"),
]


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
