"""Rules on batches, on cases that were written before the rules were read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.doctor.evidence import Evidence
from gammabeta.doctor.subject import Subject


def found(code: str, model: nn.Module, batches: Any, **given: Any) -> list[gb.doctor.Finding]:
    report = gb.examine(model, batches, select=[code], progress=False, **given)
    assert not report.notes
    return report.findings


# GB201


def settled(offset: float = 0.0) -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Return a regression that is solved exactly by calibrated statistics, and its batches."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(512, 8) + offset
    gb.calibrate(model, list(x.split(64)))
    with torch.no_grad():
        y = model.eval()(x) + 0.05 * torch.randn(512, 1)
    return model.train(), list(zip(x.split(64), y.split(64), strict=True))


@pytest.mark.parametrize(("offset", "number"), [(0.0, 1), (3.0, 0)])
def test_the_mean_of_the_first_norm_does_not_lag_on_centered_inputs(
    offset: float, number: int
) -> None:
    model, batches = settled(offset)
    assert not found("GB201", model, batches, loss=F.mse_loss)
    model[1].running_mean += 0.25 * model[1].running_var.sqrt()
    findings = found("GB201", model, batches, loss=F.mse_loss)
    assert [each.severity for each in findings] == ["error"] * number


def test_a_variance_that_lags_is_no_bug() -> None:
    model, batches = settled()
    with torch.no_grad():
        batches = [(x, model.eval()(x)) for x, _ in batches]  # any difference is damage
    model.train()[1].running_var *= 1.33
    assert not found("GB201", model, batches, loss=F.mse_loss)


def test_a_small_loss_that_every_batch_agrees_on() -> None:
    model, batches = settled()
    model[1].running_var *= 1.7
    (it,) = found("GB201", model, batches, loss=F.mse_loss)
    before, after = it.numbers["loss before"], it.numbers["loss after calibration"]
    assert it.severity == "error"
    assert before > 1.5 * after
    assert 0.015 < (before - after) / torch.cat([y for _, y in batches]).var() < 0.05


def test_statistics_without_damage_are_information() -> None:
    model, batches = settled()
    model[1].running_mean += 0.6 * model[1].running_var.sqrt()
    (it,) = found("GB201", model, batches, loss=lambda y, t: 1 + 0 * y.mean())
    assert (it.severity, it.layer, it.cost) == ("info", "1", "")


# GB202


class Mask(nn.Module):
    """Multiplies by zeros and ones that are drawn at random, in evaluation, too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.fc, self.kind = nn.Linear(6, 6), kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        if self.kind == "mask":
            return x * torch.bernoulli(torch.full_like(x, 0.5))
        if self.kind == "path":  # stochastic depth, as in many vision transformers
            return x * x.new_empty(len(x), 1).bernoulli_(0.8)
        if self.kind == "kept":
            return x * x.new_empty(len(x), 1).bernoulli_(1.0)
        return torch.bernoulli(x.sigmoid())  # a stochastic unit


@pytest.mark.parametrize(("kind", "number"), [("mask", 1), ("path", 1), ("kept", 0), ("unit", 0)])
def test_dropout_by_hand(kind: str, number: int) -> None:
    model = nn.Sequential(Mask(kind), nn.Linear(6, 2))
    findings = found("GB202", model, list(torch.randn(2, 16, 6)))
    assert [each.layer for each in findings] == ["0"] * number


# GB204


class Positions(nn.Module):
    """Features last, and a norm on dim 1, which was made for the positions."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(6, 8), norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.embed(x))


@pytest.mark.parametrize(
    ("norm", "severity"),
    [
        (nn.BatchNorm1d(12), "info"),
        (nn.GroupNorm(4, 12), "warning"),
        (nn.GroupNorm(1, 12), "info"),
        (nn.GroupNorm(12, 12), "info"),
        (nn.LayerNorm(8), None),
    ],
)
def test_norms_of_positions(norm: nn.Module, severity: str | None) -> None:
    findings = found("GB204", Positions(norm), list(torch.randn(2, 16, 12, 6)))
    assert [each.severity for each in findings] == ([severity] if severity else [])


def test_layer_norm_of_the_frames_of_a_convolution() -> None:
    model = nn.Sequential(nn.Conv1d(6, 8, 3), nn.LayerNorm(10))
    (it,) = found("GB204", model, list(torch.randn(2, 16, 6, 12)))
    assert (it.severity, it.layer) == ("info", "1")
    assert "transpose(1, 2)" in it.fix


# GB205


class Selects(nn.BatchNorm1d):
    """Normalizes the positions that are not empty, and leaves the others."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2)
        valid = (rows != 0).any(2)
        y = torch.zeros_like(rows)
        y[valid] = super().forward(rows[valid])
        return y.transpose(1, 2)


def ragged() -> list[Tensor]:
    torch.manual_seed(0)
    lengths = torch.randint(3, 21, (4, 16, 1, 1))
    lengths[:, 0] = 20
    return list((2 + torch.randn(4, 16, 5, 20)) * (torch.arange(20) < lengths))


@pytest.mark.parametrize(("norm", "number"), [(Selects(5), 0), (nn.BatchNorm1d(5), 1)])
def test_a_norm_that_takes_the_padding_out_itself(norm: nn.Module, number: int) -> None:
    assert len(found("GB205", norm, ragged())) == number


def test_its_statistics_are_those_of_what_it_normalizes() -> None:
    norm, batches = Selects(5), ragged()
    mean, _ = Evidence(Subject(norm), batches).statistics[""]
    rows = torch.cat([x.transpose(1, 2).flatten(0, 1) for x in batches])
    assert torch.allclose(mean.float(), rows[(rows != 0).any(1)].mean(0), atol=1e-5)


class Ghost(nn.BatchNorm1d):
    """Normalizes quarters of the batch, as ghost batch norm does: nothing is left out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([super(Ghost, self).forward(part) for part in x.chunk(4)])


def test_parts_of_a_batch_are_all_of_it() -> None:
    x = torch.randn(32, 6)
    (ran,) = Evidence(Subject(Ghost(6)), [x]).trained
    assert ran.calls[0].shape == (32, 6)
    assert not ran.calls[0].chosen


# GB207


@pytest.mark.parametrize(("values", "severity"), [(2, "info"), (8, "error")])
def test_clips_with_one_target_each_are_no_discriminator(values: int, severity: str) -> None:
    torch.manual_seed(0)
    x = 2 * torch.randn(8, 1, 6) + torch.randn(8, 32, 6)
    y = (torch.arange(8.0) % values)[:, None, None].expand(8, 32, 1)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    (it,) = found("GB207", model, list(zip(x, y, strict=True)), loss=F.mse_loss)
    assert it.severity == severity


# GB208


@pytest.mark.parametrize("leaking", [True, False])
def test_four_choices_of_a_question(leaking: bool) -> None:
    torch.manual_seed(0)
    x, y = 3 * torch.randn(80, 1, 12) + 0.3 * torch.randn(80, 4, 12), torch.zeros(80, 4).long()
    right = torch.randint(4, (80,))
    y[torch.arange(80), right] = 1
    x[torch.arange(80), right] += 0.6
    if not leaking:
        order = torch.randperm(320)
        x, y = x.flatten(0, 1)[order].view_as(x), y.flatten()[order].view_as(y)
    model = nn.Sequential(nn.Linear(12, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(240):
        optimizer.zero_grad()
        F.cross_entropy(model(x[step % 80]), y[step % 80]).backward()
        optimizer.step()
    batches = list(zip(x, y, strict=True))
    assert len(found("GB208", model, batches, loss=F.cross_entropy)) == leaking


# GB209


def test_statistics_of_noisy_channels_are_still_those_with_dropout() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.BatchNorm1d(64)
    )
    with torch.no_grad():
        for x in torch.randn(60, 64, 8):
            model(x)
    model[4].running_var *= (0.2 * torch.randn(64)).exp()  # of one channel it is known so well
    (it,) = found("GB209", model, list(torch.randn(3, 64, 8)))
    assert it.numbers["running variance is that with dropout"]
