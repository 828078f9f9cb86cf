"""What is declared to be meant stays silent: through copies, pickles, conversions, in a watch."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gammabeta as gb
from gammabeta.doctor import Finding, Step, Subject, TrainingRule
from tests.doctor.rules import finds, rule


def net(momentum: float = 0.9) -> nn.Sequential:
    norm = nn.BatchNorm1d(4, momentum=momentum)
    return nn.Sequential(nn.Linear(4, 4, bias=False), norm, nn.ReLU())


def through_a_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)  # type: ignore[no-any-return]


WAYS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda model: model,
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": through_a_file,
    "convert": gb.convert,
    "convert and revert": lambda model: gb.revert(gb.convert(model)),
    "copy of a converted one": lambda model: copy.deepcopy(gb.convert(model)),
    "train and eval": lambda model: model.eval().train(),
    "half": lambda model: model.double(),
    "wrapped": lambda model: nn.Sequential(model),
    "part of another": lambda model: nn.ModuleDict({"a": model, "b": nn.Linear(1, 1)}),
    "shared": lambda model: nn.ModuleList([model, model]),
    "DataParallel": nn.DataParallel,
    "load_state_dict": lambda model: (model.load_state_dict(net().state_dict()), model)[1],
    "symbolic_trace": torch.fx.symbolic_trace,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["norm", "model"])
def test_it_survives(way: str, place: str) -> None:
    if (place, way) == ("model", "symbolic_trace"):
        pytest.skip("the traced model is another module")
    model = net()
    assert gb.examine(model, select="GB103").findings
    declared = gb.intended("GB103", model[1] if place == "norm" else model)
    assert declared is (model[1] if place == "norm" else model)
    report = gb.examine(WAYS[way](model), select="GB103")
    assert report.findings == []
    assert [f.code for f in report.intended] == ["GB103"]
    assert "1 intended" in str(report)
    assert report.as_dict()["intended"][0]["code"] == "GB103"


def test_it_holds_for_one_rule_and_one_place() -> None:
    model = nn.Sequential(net(), net(0.0))
    gb.intended("momentum", model[0])
    report = gb.examine(model, select="GB103")
    assert [f.layers for f in report.findings] == [("1.1",)]
    assert [f.layers for f in report.intended] == [("0.1",)]
    gb.intended("GB101", model[1])
    assert gb.examine(model, select="GB103").findings == report.findings
    gb.intended("GB103", model[1])
    assert gb.examine(model, select="GB103").findings == []


def test_a_finding_of_several_layers_is_taken_apart() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(2) for _ in range(4)))
    layers = ("0", "1", "2", "3")
    both = Finding(severity="error", layer="0", layers=layers, cause="x", repair=lambda _: "no")
    with rule(finds(both)):
        gb.intended("XY101", model[0])
        gb.intended("made-up", model[2])
        report = gb.examine(model, select="XY101")
    (left,), (meant,) = report.findings, report.intended
    assert (left.layer, left.layers, left.repair) == ("1", ("1", "3"), None)
    assert (meant.layer, meant.layers) == ("0", ("0", "2"))


def test_a_path_that_leads_nowhere_has_the_intent_of_what_contains_it() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2))
    found = Finding(severity="error", layer="0.gone.deeper", cause="x")
    with rule(finds(found)):
        assert gb.examine(model, select="XY101").findings
        gb.intended("XY101", model[0])
        assert not gb.examine(model, select="XY101").findings


def test_it_changes_nothing_else() -> None:
    model = net()
    before = model.state_dict(), repr(model), list(model.named_modules())
    gb.intended("GB103", model[1])
    gb.intended("GB101", model[1])
    after = model.state_dict(), repr(model), list(model.named_modules())
    assert list(before[0]) == list(after[0])
    assert before[1:] == after[1:]
    assert gb.examine(model, select="GB103").findings == []


def test_it_is_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"code='GB999' is no rule; .*a code such as GB103"):
        gb.intended("GB999", net())
    with pytest.raises(TypeError, match=r"module is of type str; give a torch.nn.Module"):
        gb.intended("GB103", "layer1")  # type: ignore[arg-type]


class Always(TrainingRule):
    def step(self, step: Step) -> Iterator[Finding]:
        for layer in ("0", "1"):
            yield Finding(severity="error", layer=layer, cause="it trains")


@pytest.mark.parametrize("declared", [(), ("1",), ("0", "1"), ("",)])
def test_it_silences_in_a_watch(declared: tuple[str, ...], tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    told: list[Any] = []
    with rule(Always, "training", "XY301"):
        for path in declared:
            gb.intended("XY301", model.get_submodule(path))
        with gb.watch(
            model, tmp_path / "run", doctor=["XY301"], optimizer=optimizer, on_finding=told.append
        ) as signal:
            for _ in range(3):
                model(torch.randn(8, 4)).sum().backward()
                optimizer.step()
                signal.step()
    silent = {"", "0", "1"} if declared == ("",) else set(declared)
    assert [f.layer for f in told] == [layer for layer in ("0", "1") if layer not in silent]
    assert signal.findings == told
    assert signal.should_stop == bool(told)
    clinic: Any = signal._attendant
    assert [f.layer for f in clinic.intended] == [x for x in ("0", "1") if x in silent]


def test_a_subject_is_only_read() -> None:
    with rule(lambda subject: [] if isinstance(subject, Subject) else 1 / 0):
        assert gb.examine(net(), select=["XY101"]).notes == []
