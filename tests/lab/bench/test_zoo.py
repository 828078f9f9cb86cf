"""The zoo: what is compared, that a fault is seen, and that a run continues."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammabeta
from gammabeta.lab.bench import zoo, zoo_case, zoo_models
from gammabeta.lab.bench.net_models import Network
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.zoo import Limits, Zoo, layout_of, measure, read
from gammabeta.lab.bench.zoo_case import CHECKS, Result, examine
from gammabeta.lab.bench.zoo_distance import as_near, distance, perturb, tensors_of
from gammabeta.lab.bench.zoo_outcome import prepare, run, same
from gammabeta.lab.bench.zoo_report import counts_table, differing, line, ratios_table, reasons

Convert = Any


class Net(nn.Module):
    """Convolution, batch norm, ReLU, twice; group norm; dropout; a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
            *(nn.Conv2d(8, 8, 3), nn.GroupNorm(2, 8)),
        )
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.body(x).mean((2, 3))
        return {"scores": self.head(self.drop(y)), "features": y}


def network(model: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    made = model or Net()
    return Network("mine:net", made, "4x3x12x12", (torch.randn(4, 3, 12, 12),))


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The zoo has `Net` under every name."""
    monkeypatch.setattr(zoo_case, "load", lambda _: network())


@pytest.mark.parametrize("layout", zoo.LAYOUTS)
@pytest.mark.usefixtures("mine")
def test_a_network_is_the_same_in_all_forms(layout: str) -> None:
    result = examine("mine:net", layout)
    assert (result.status, result.failures) == ("same", [])
    assert (result.norms, result.converted, result.folded) == (3, 3, 2)
    assert result.fused >= 2
    forms = {
        f"{form} {check}"
        for form in ("fused", "converted", "kernels", "float64")
        for check in CHECKS
    }
    assert set(result.figures) == {*forms, "folded evaluation"}
    assert result.figures["kernels training"][1] != result.figures["kernels training"][0]
    assert all(far < 1e-5 for _, far in result.figures.values())
    assert all(far < 1e-13 for k, (_, far) in result.figures.items() if k.startswith("float64"))


def broken(convert: Convert, fault: str) -> Convert:
    """``convert`` with a fault: all of them are such as a conversion may have."""

    def wrong(model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        model = convert(model, *args, **kwargs)
        first = model.get_submodule("body.1")
        if fault == "epsilon":
            first.eps = 2e-3
        elif fault == "momentum":
            first.momentum = 0.2
        elif fault == "key":
            model.register_buffer("more", torch.zeros(1))
        elif fault == "value":
            first.register_forward_hook(lambda m, i, out: out * (1 + 1e-5))
        return model

    return wrong


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("epsilon", "fused: evaluation "),
        ("momentum", "fused: statistics "),
        ("key", "state_dict: other keys or another order: more"),
        ("value", "float64: training "),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_fault_of_the_conversion_is_seen(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gammabeta, "convert", broken(gammabeta.convert, fault))
    result = examine("mine:net", "nchw")
    assert result.status == "differs"
    assert any(failure.startswith(said) for failure in result.failures), result


@pytest.mark.usefixtures("mine")
def test_a_fault_of_the_reversion_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gammabeta, "revert", lambda model, **_: model)
    result = examine("mine:net", "nchw")
    assert result.failures == ["reverted: other classes: body.1, body.4, body.7"]

    def half(model: nn.Module, **kwargs: Any) -> nn.Module:
        model = revert(model, **kwargs)
        model.get_parameter("body.1.weight").data[0] += 1e-3
        return model

    monkeypatch.undo()
    monkeypatch.setattr(zoo_case, "load", lambda _: network())
    revert = gammabeta.revert
    monkeypatch.setattr(gammabeta, "revert", half)
    assert "reverted: other bits: evaluation" in examine("mine:net", "nchw").failures


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("value", "folded: evaluation "),
        ("original", "folded: the original changed"),
        ("error", "folded: KeyError: 'x'"),
        ("refused", "folded: ValueError: some other reason"),
    ],
)
@pytest.mark.usefixtures("mine")
def test_a_fault_of_folding_is_seen(fault: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fold = gammabeta.fold

    def wrong(model: nn.Module, **kwargs: Any) -> nn.Module:
        if fault in ("error", "refused"):
            raise KeyError("x") if fault == "error" else ValueError("some other reason")
        made = fold(model, **kwargs)
        target = model if fault == "original" else made
        target.get_parameter("body.0.weight").data[0] *= 1.001
        return made

    monkeypatch.setattr(gammabeta, "fold", wrong)
    result = examine("mine:net", "nchw")
    assert any(failure.startswith(said) for failure in result.failures), result


@pytest.mark.usefixtures("mine")
def test_what_is_refused_by_name_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(model: nn.Module, **_: Any) -> nn.Module:
        raise ValueError("no norm of model=Net could be folded: body.1: a reason")

    monkeypatch.setattr(gammabeta, "fold", refuse)
    result = examine("mine:net", "nchw")
    assert (result.status, result.folded) == ("same", 0)
    assert result.note == "not folded: body.1: a reason"


def test_a_network_that_takes_nchw_only_gets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Views(Net):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.body(x)
            return {"y": y.view(len(y), -1)}

    monkeypatch.setattr(zoo_case, "load", lambda _: network(Views()))
    result = examine("mine:net", "channels_last")
    assert (result.status, result.layout, result.failures) == ("same", "nchw", [])


def test_what_cannot_be_compared_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(_: str) -> Network:
        raise Absent("no such input")

    monkeypatch.setattr(zoo_case, "load", absent)
    assert examine("mine:net", "nchw").note == "no such input"
    monkeypatch.setattr(zoo_case, "load", lambda _: network(nn.Conv2d(3, 4, 3)))
    assert examine("mine:net", "nchw").status == "no norms"
    monkeypatch.setattr(zoo_case, "SLOW", -1.0)
    result = examine("mine:net", "nchw")
    assert (result.status, result.note) == ("left out", "a step takes 0 s")


# Preparation, distance.


def test_a_run_gives_the_state_back() -> None:
    net = network()
    prepare(net)
    before = {k: v.clone() for k, v in net.model.state_dict().items()}
    outcome = run(net.model, net)
    assert all(same(v, before[k]) for k, v in net.model.state_dict().items())
    assert all(p.grad is None for p in net.model.parameters())
    updated = [k for k, v in outcome.statistics.items() if not same(v, before[k])]
    assert len(updated) == 6  # mean, variance and count of both batch norms
    assert {"input 0", "body.0.weight"} <= set(outcome.gradients)
    assert set(outcome.training) == {"out.scores", "out.features"}


def test_norms_matter_after_preparation() -> None:
    net = network()
    prepare(net)
    first: Any = net.model.get_submodule("body.1")
    assert first.momentum == 0.1
    assert float(first.weight.detach().std()) > 0.1
    assert float(first.bias.detach().abs().max()) > 0.05
    x = net.model.get_submodule("body.0")(net.args[0]).detach()
    off = first.running_mean - x.mean((0, 2, 3))
    assert 1e-3 < float(off.abs().max()) < 1


def test_the_distance_of_what_should_be_nothing() -> None:
    """The gradient of a bias before a norm is zero: what rounding makes of it is no distance."""
    truth = {"weight": torch.full((100,), 3.0), "bias": torch.full((10,), 1e-18)}
    found = {"weight": torch.full((100,), 3.0), "bias": torch.full((10,), 1e-8)}
    assert distance(found, truth) == 0
    found["weight"] = found["weight"] * 1.01
    assert distance(found, truth) == pytest.approx(0.01, rel=1e-3)
    assert distance({"y": torch.tensor([float("nan")])}, {"y": torch.ones(1)}) == 2.0
    assert distance({}, {}) == 0.0


def test_as_near() -> None:
    assert as_near([1.9e-4], [1e-4])
    assert not as_near([2.1e-4], [1e-4])
    assert as_near([9e-4, 1e-4, 1e-4], [1e-4, 1e-4, 9e-4])  # medians
    assert as_near([9e-7], [0.0])  # a few roundings


def test_a_perturbation_is_one_rounding() -> None:
    weight = torch.tensor([1.0, -3.0, 100.0])
    moved = weight.clone()
    perturb(moved, 1)
    off = (moved - weight).abs() / weight.abs()
    assert bool(((off > 2.0**-25) & (off < 2.0**-22)).all())


def test_every_tensor_of_an_output_is_found() -> None:
    out = {"a": [torch.ones(1), (torch.ones(2), None)], "ids": torch.ones(1, dtype=torch.long)}
    assert list(tensors_of(out)) == ["out.a.0", "out.a.1.0"]


# The run.


def test_each_network_runs_in_its_own_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def one(name: str, layout: str) -> Result:
        if name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "raises":
            raise RuntimeError("broken; twice")
        if name == "hungry":
            torch.empty(2**38)
        if name == "sleeps":
            signal.pause()
        while name == "computes":
            pass
        print("not to be seen")
        return Result(name, status="same", layout=layout, note=str(os.getpid()))

    monkeypatch.setattr(zoo, "examine", one)
    names = ["dies", "raises", "hungry", "sleeps", "computes", "good"]
    threads = torch.get_num_threads()
    try:
        found = {r.network: r for r in measure(names, 2, Limits(seconds=1, wall=8.0, gib=1.0))}
    finally:
        torch.set_num_threads(threads)
    assert set(found) == set(names)
    assert found["dies"].note == "it ended by signal 9"
    assert found["raises"].status == "differs"
    assert found["raises"].failures == ["RuntimeError: broken, twice"]
    assert found["hungry"].note == "it takes more than 1 GiB"
    assert found["sleeps"].note == "it takes more than 8 s"
    assert found["computes"].note == "it takes more than 1 s of processor time"
    assert found["good"].status == "same"
    assert found["good"].note != str(os.getpid())


def test_the_table_continues(tmp_path: Path) -> None:
    path = tmp_path / "made/zoo.csv"
    table = Zoo(path)
    full = Result(
        "a", "differs", "4x3", "nchw", 7, 3, 2, 1, 0, 0.5, {"fused training": (1e-6, 3e-6)}
    )
    full.failures = ["one", "two: x, y"]
    table.add(full)
    table.add(Result("b", note="why, not"))
    assert read(path) == [full, Result("b", note="why, not", made=full.made)]
    assert f"torch {torch.__version__}, gammabeta {gammabeta.__version__}" in full.made
    again = Zoo(path)
    assert again.missing(["a", "c", "b", "c"]) == ["c"]
    again.add(Result("c"))
    assert [r.network for r in read(path)] == ["a", "b", "c"]
    path.write_text("x,y\n")
    with pytest.raises(ValueError, match="is not a file of gammabeta bench zoo"):
        Zoo(path)


def test_all_architectures_are_asked_for() -> None:
    provider = pytest.importorskip("pytorchcv.model_provider")
    pytest.importorskip("transformers")
    names = zoo_models.names()
    assert {f"pytorchcv:{name}" for name in provider._models} <= set(names)
    assert sum(name.startswith("transformers:") for name in names) >= 25
    assert len(names) == len(set(names))
    kinds = [provider._models[n.partition(":")[2]].__module__ for n in names if "cv:" in n]
    assert len(set(kinds[:100])) == 100  # one of each file first
    for name in names[::40]:
        zoo_models.check(name)
    layouts = [layout_of(name) for name in names]
    assert 0.4 < layouts.count("nchw") / len(layouts) < 0.6


@pytest.mark.parametrize("name", ["pytorchcv:resnet10", "pytorchcv:voca8flame"])
def test_pytorchcv_networks_get_their_input(name: str) -> None:
    pytest.importorskip("pytorchcv")
    found = zoo_models.load(name)
    assert found.shape in ("4x3x64x64", "4x1x16x29")


def test_a_network_that_cannot_be_built_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first reason counts: later inputs only fail because they are larger."""

    def candidates(*_: str) -> Any:
        yield nn.Linear(3, 4), (torch.ones(1, 2),), {}
        raise AssertionError("of the builder")

    monkeypatch.setattr(zoo_models, "_candidates", candidates)
    monkeypatch.setattr(zoo_models, "check", lambda _: None)
    with pytest.raises(Absent, match="RuntimeError: mat1 and mat2 shapes cannot be multiplied"):
        zoo_models.load("mine:net")
    monkeypatch.setattr(zoo_models, "_candidates", lambda *_: iter(()))
    with pytest.raises(Absent, match="it takes no input that is tried"):
        zoo_models.load("mine:net")


def test_the_name_that_numpy_dropped_is_there_for_a_while() -> None:
    assert not hasattr(np, "int")
    with zoo_models.older_numpy():
        assert np.int is int
    assert not hasattr(np, "int")


def test_transformers_are_compared() -> None:
    pytest.importorskip("transformers")
    result = examine("transformers:convnext", "channels_last")
    assert (result.status, result.failures) == ("same", [])
    assert result.converted == result.norms > 0


# What is said.


def test_results_in_words() -> None:
    same_ = Result("pytorchcv:a", "same", norms=2, converted=2, fused=1, folded=2)
    same_.figures = {"fused training": (1e-5, 2e-5), "folded evaluation": (1e-9, 1e-8)}
    results = [
        same_,
        Result("transformers:b", "differs", failures=["fused: x", "float64: y"]),
        Result("pytorchcv:c", note="needs 31 channels"),
        Result("pytorchcv:d", note="needs 5 channels"),
    ]
    assert line(same_) == "pytorchcv:a: same, 2 of 2 norms converted, 1 fused, 2 folded"
    counts = [" ".join(text.split()) for text in counts_table(results).splitlines()]
    assert counts[1] == "same all checks pass 1 0"
    assert counts[-1] == "all 3 1"
    ratios = [" ".join(text.split()) for text in ratios_table(results).splitlines()]
    assert ratios[1:] == ["fused training 1 2.00 2.00 2.00"]  # below 1e-6 there is no ratio
    assert differing(results) == ["transformers:b: fused: x; float64: y"]
    assert reasons(results, "left out") == [("needs 31 channels", 2, "pytorchcv:c")]
