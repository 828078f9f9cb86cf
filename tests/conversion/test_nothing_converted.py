"""`convert` says so where it changed nothing, and undoes what it began where something raises."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import gammabeta as gb
from gammabeta.conversion import become


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu() + 1


class TheirRMSNorm(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = 1e-6

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class OutsideNorm(TheirRMSNorm):
    def forward(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True).sqrt() + self.eps)


class OddNorm(TheirRMSNorm):
    def forward(self, x):
        return self.weight * x.mean(-1, keepdim=True)


def replaced():
    layer = nn.BatchNorm1d(4)
    layer.forward = lambda x: x
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: NormAct(4), "NormAct is a subclass with a forward of its own"),
        (replaced, "its forward was replaced on the object"),
        (lambda: nn.SyncBatchNorm(4), "gammabeta has no SyncBatchNorm"),
        (lambda: nn.LocalResponseNorm(2), "gammabeta has no LocalResponseNorm"),
        (
            lambda: OutsideNorm(4),
            "OutsideNorm is no subclass of torch's layers; it computes rms norm, features at the "
            r"last dim \(γ = weight, ε = 1e-06\); gammabeta has no kernel for this formula",
        ),
        (
            lambda: OddNorm(4),
            "OddNorm is no subclass of torch's layers; it does not match a known formula",
        ),
    ],
)
def test_norms_that_were_left_are_named_with_the_reason(make, reason):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(make()))
    kind = type(model[1][0])
    words = f"nothing of model=.* changed: 1.0 left as it is: {reason}"
    with pytest.warns(UserWarning, match=words) as said:
        assert gb.convert(model) is model
    assert len(said) == 1
    assert said[0].filename == __file__
    assert type(model[1][0]) is kind


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_a_compiled_norm_is_named():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.BatchNorm1d(4))))
    with pytest.warns(UserWarning, match=r"0.0 left as it is: torch.jit has compiled it"):
        gb.convert(model)
    with pytest.raises(ValueError, match=r"0.0 left as it is: torch.jit has compiled it"):
        gb.convert(model, to="group")


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4)),
        nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 4))),
        nn.Sequential(nn.BatchNorm2d(4), NormAct(4)),
        nn.Sequential(gb.BatchNorm2d(4), NormAct(4)),
    ],
    ids=["none", "a parametrization", "one converted", "one converted before"],
)
def test_there_is_no_warning_where_nothing_is_amiss(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gb.convert(model)
        gb.convert(model)


def test_a_swap_of_families_names_norms_written_by_hand():
    model = nn.Sequential(nn.LayerNorm(4), TheirRMSNorm(4), OddNorm(4), nn.BatchNorm1d(4))
    reports = []
    gb.convert(model, to="rms", report=reports.append)  # the first is not of the family asked for
    assert [left.names for left in reports[0].left] == [("2",)]
    gb.convert(model, to="layer", of=["rms", "batch"], report=reports.append)
    assert [left.names for left in reports[1].left] == [("1",), ("2",)]
    assert "it computes rms norm" in reports[1].left[0].reason


def test_a_report_is_told_instead():
    reports = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gb.convert(nn.Sequential(NormAct(4)), report=reports.append)
    assert [left.names for left in reports[0].left] == [("0",)]


# Wrong arguments, and errors midway


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(({"to": to}, ValueError) for to in (5, True, ["group"], "")),
        *(({"to": "group", "groups": g}, ValueError) for g in (0, -1, "a", 2.5, True, None)),
        *(({"to": "group", "num_groups": g}, TypeError) for g in (0, -1, "a", 2.5)),
        *(({"to": "instance", "dims": d}, ValueError) for d in (0, 4, "a", True, 2.0)),
        *(({"to": "group", "of": of}, TypeError) for of in (5, True)),
        *(({"to": "group", "of": of}, ValueError) for of in ([], [5], "")),
        *(({"to": "group", "groups": 2, "eps": eps}, TypeError) for eps in ("a", True, [1])),
        ({"exact": "yes"}, TypeError),
        ({"report": 5}, TypeError),
        ({"memory": 5}, ValueError),
    ],
)
def test_arguments_that_will_not_do_are_named_and_nothing_changes(arguments, error):
    model = nn.Sequential(nn.BatchNorm2d(4))
    with pytest.raises(error, match=f"^{list(arguments)[-1]}"):
        gb.convert(model, **arguments)
    assert type(model[0]) is nn.BatchNorm2d


@pytest.mark.parametrize("arguments", [{}, {"memory": "lean"}])
def test_an_error_after_the_layers_were_changed_undoes_that(monkeypatch, arguments):
    def failing(module):
        raise OSError("midway")

    model = nn.Sequential(nn.BatchNorm2d(4), gb.BatchNorm2d(4), nn.LayerNorm(4))
    before = [(type(layer), dict(layer.__dict__)) for layer in model]
    monkeypatch.setattr(gb.BatchNorm2d, "_counter", failing)
    with pytest.raises(OSError, match="midway"):
        gb.convert(model, **arguments)
    for layer, (kind, attributes) in zip(model, before, strict=True):
        assert type(layer) is kind
        assert layer.__dict__ == attributes


def test_one_layer_that_cannot_be_turned_back_keeps_no_other_from_being_turned_back(monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    plain, turned = become._set, []

    def failing(change):
        turned.append(change)
        if len(turned) == 4 and change.module is model[1]:
            raise OSError("stuck")
        plain(change)

    monkeypatch.setattr(become, "_set", failing)
    undo = become.become([become.recast(layer, gb.BatchNorm2d) for layer in model])
    turned.append(None)
    with pytest.raises(OSError, match="stuck"):
        undo()
    assert [type(layer) for layer in model] == [nn.BatchNorm2d, gb.BatchNorm2d]
