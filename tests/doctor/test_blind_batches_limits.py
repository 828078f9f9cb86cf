"""Limits and branches of the rules on batches: each case fails if one of them is changed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler, TensorDataset

import gammabeta as gb
from gammabeta.doctor.evidence.composition import compared


def report(code: str, model: nn.Module, batches: Any, **given: Any) -> gb.Report:
    made = gb.examine(model, batches, select=[code], progress=False, **given)
    assert not made.notes
    return made


def severities(code: str, model: nn.Module, batches: Any, **given: Any) -> list[str]:
    return [each.severity for each in report(code, model, batches, **given).findings]


def normal(count: int, *shape: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(*shape) for _ in range(count)]


def calibrated(batches: list[Tensor]) -> tuple[nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Return a regression that its own statistics solve, and its batches."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    gb.calibrate(model, batches)
    with torch.no_grad():
        targets = [model.eval()(x) for x in batches]
    return model.train(), list(zip(batches, targets, strict=True))


# GB201


@pytest.mark.parametrize("dependent", [True, False])
def test_stale_statistics_of_batches_that_alternate_are_left_to_gb207(dependent: bool) -> None:
    model, batches = calibrated(normal(8, 64, 8))
    moved = [
        (x + (3.0 if index % 2 or not dependent else 0.0), y)
        for index, (x, y) in enumerate(batches)
    ]
    found = severities("GB201", model, moved, loss=F.mse_loss)
    assert found == ([] if dependent else ["error"])


def test_a_new_model_without_a_loss_is_silent() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
    assert not severities("GB201", model, [5 * x + 3 for x in normal(4, 64, 8)])


def test_a_model_that_has_learned_nothing_has_nothing_to_lose() -> None:
    model, batches = calibrated(normal(8, 64, 8))
    same = model[3].weight[0].detach().sign()  # so that the outputs all move in one direction
    model[1].running_mean += 2 * same * model[1].running_var.sqrt()
    with torch.no_grad():
        moved = (model.eval()(batches[0][0]) - batches[0][1]).mean()
    # targets that the outputs move away from, and that they have nothing to do with
    random = [(x, y.roll(1, 0) - 3 * moved) for x, y in batches]
    assert severities("GB201", model.train(), random, loss=F.mse_loss) == ["info"]
    right = [(x, y - moved) for x, y in batches]
    assert severities("GB201", model, right, loss=F.mse_loss) == ["error"]


def test_few_examples_explain_a_distance() -> None:
    for size, shift, found in ((6, 0.7, []), (256, 0.7, ["error"]), (4, 5.0, [])):
        model, batches = calibrated(normal(8, 256, 8))
        model[1].running_mean += shift * model[1].running_var.sqrt()
        few = [(x[:size], y[:size]) for x, y in batches[:2]]
        assert severities("GB201", model, few, loss=F.mse_loss) == found


def test_an_average_that_has_just_begun_is_information() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 1))
    model[0].weight.data.mul_(0.1)  # variances far below the initial 1
    batches = normal(8, 64, 8)
    gb.calibrate(model, batches)
    with torch.no_grad():
        pairs = [(x, model.eval()(x)) for x in batches]
    model.train()[1].reset_running_stats()
    for step in range(45):
        model(batches[step % 8])
    assert severities("GB201", model, pairs, loss=F.mse_loss) == ["info"]
    model[1].num_batches_tracked.fill_(1000)
    assert severities("GB201", model, pairs, loss=F.mse_loss) == ["error"]


# GB202


class Stays(nn.Sequential):
    """Has an ``eval()`` that does nothing."""

    def eval(self) -> Stays:
        return self


def test_eval_is_tried_on_a_model_in_training_mode() -> None:
    model = nn.Sequential(Stays(nn.Linear(6, 6), nn.BatchNorm1d(6)))
    model.train(False)  # the mode it is found in says nothing
    assert severities("GB202", model[0], normal(2, 8, 6)) == ["error"]


# GB203


class Mates(nn.Module):
    """Adds a share of the mean of the batch."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return x + self.share * (x.square() - 1).mean(0)


@pytest.mark.parametrize(
    ("share", "found"), [(0.001, []), (0.03, ["info"]), (0.15, ["warning"]), (3.0, ["error"])]
)
def test_dependence_follows_its_size(share: float, found: list[str]) -> None:
    assert severities("GB203", Mates(share), normal(2, 128, 6)) == found


# GB204


@pytest.mark.parametrize(("length", "number"), [(16, 1), (20, 0)])
def test_a_raw_series_of_another_length_says_nothing(length: int, number: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 16, length).cumsum(2) + 5 * torch.randn(length)
    assert len(severities("GB204", nn.BatchNorm1d(16), list(x))) == number


# GB205


@pytest.mark.parametrize(
    ("mean", "share", "found"), [(0.0, 0.1, []), (0.0, 0.3, ["warning"]), (2.0, 0.4, ["error"])]
)
def test_padding_follows_its_size(mean: float, share: float, found: list[str]) -> None:
    torch.manual_seed(0)
    lengths = (40 * (1 - share * (0.5 + torch.rand(64, 1, 1)))).round()
    lengths[0] = 40
    x = (mean + torch.randn(64, 5, 40)) * (torch.arange(40) < lengths)
    batch = (x, lengths.flatten().long(), torch.zeros(64))
    assert severities("GB205", nn.BatchNorm1d(5), [batch]) == found


# GB206


@pytest.mark.parametrize(("shape", "found"), [((2, 4, 2), ["warning"]), ((4, 4, 1), ["info"])])
def test_four_values_of_two_examples(shape: tuple[int, ...], found: list[str]) -> None:
    assert severities("GB206", nn.BatchNorm1d(4), normal(3, *shape)) == found


# GB207


@pytest.mark.parametrize(("shift", "found"), [(0.55, ["warning"]), (3.0, ["error"])])
def test_dependence_of_batches_follows_its_size(shift: float, found: list[str]) -> None:
    batches = [x + shift * (index % 2 * 2 - 1) for index, x in enumerate(normal(8, 32, 6))]
    assert severities("GB207", nn.BatchNorm1d(6), batches) == found


def test_what_chance_explains_is_no_dependence() -> None:
    torch.manual_seed(0)
    for shape, dependent in (((4, 8, 1), False), ((8, 32, 1), True)):  # p = 0.002 of the first
        rows = torch.randn(shape)
        rows -= rows.mean(1, keepdim=True)
        shifted = list(rows + 0.7 * torch.arange(float(shape[0]))[:, None, None])
        assert (compared("features", "", shifted) is not None) == dependent


def test_a_few_classes_for_each_batch_are_a_sampler() -> None:
    torch.manual_seed(0)
    classes = [torch.randperm(10)[:5].repeat(8) for _ in range(8)]
    batches = [(torch.randn(40, 6), y) for y in classes]
    assert not severities("GB207", nn.BatchNorm1d(6), batches)


# GB208


class Whole(nn.Module):
    """Compares two views by statistics of the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6, affine=False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return 5 * F.normalize(self.norm(a)) @ F.normalize(self.norm(b)).T


def test_pairs_in_the_whole_batch_do_not_leak() -> None:
    torch.manual_seed(0)
    a = torch.randn(4, 32, 6)
    b = a + 0.1 * torch.randn_like(a)
    batches = [(x, y, torch.arange(32)) for x, y in zip(a, b, strict=True)]
    assert not severities("GB208", Whole(), batches, loss=F.cross_entropy)


def test_an_output_that_is_not_finite_is_no_leak() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    x, y = torch.randn(4, 32, 6), torch.randint(2, (4, 32))
    x[1, 3] = float("nan")
    assert not severities("GB208", model, list(zip(x, y, strict=True)), loss=F.cross_entropy)


# GB209


def test_the_loss_decides_on_dropout_before_a_norm() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 64), nn.BatchNorm1d(64)
    )
    with torch.no_grad():
        for x in normal(60, 64, 8):
            model(x)
    batches = [(x, torch.zeros(64, 64)) for x in normal(3, 64, 8)]
    assert severities("GB209", model, normal(3, 64, 8)) == ["warning"]
    assert severities("GB209", model, batches, loss=lambda y, t: 1 + 0 * y.mean()) == ["info"]
    damaged = severities("GB209", model, batches, loss=lambda y, t: (y.var() - 1).abs() + 1e-3)
    assert damaged == ["error"]


# GB210


class Twice(nn.Module):
    """One norm for two inputs."""

    def __init__(self, scale: float, shift: float) -> None:
        super().__init__()
        self.norm, self.scale, self.shift = nn.BatchNorm1d(16), scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x) + self.norm(x.flip(1) * self.scale + self.shift)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.3), (1.15, 0.0)])
def test_slightly_different_inputs_share_a_norm(scale: float, shift: float) -> None:
    assert not severities("GB210", Twice(scale, shift), normal(6, 64, 16))


def test_a_calibration_mends_what_is_not_shared() -> None:
    model = Twice(2.0, 0.0)  # variances 1 and 4; the statistics are the initial ones

    def loss(y: Tensor) -> Tensor:
        return 1 + (y.var() - 2).abs() / 10

    assert severities("GB210", model, normal(6, 64, 16), loss=loss) == ["info"]


# GB211


def test_a_last_batch_of_one_small_image() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    assert severities("GB211", model, list(torch.randn(17, 1, 4, 4).split(8))) == ["warning"]


def test_batches_of_one_throughout_have_no_last_one() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    assert not severities("GB211", model, list(torch.randn(5, 1, 8, 8).split(1)))


def test_a_loader_with_a_batch_sampler() -> None:
    data = TensorDataset(torch.randn(81, 8))  # more than what is looked at
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    for drop, found in ((False, ["error"]), (True, [])):
        sampler = BatchSampler(SequentialSampler(data), 8, drop)
        loader = DataLoader(data, batch_sampler=sampler)
        assert severities("GB211", model, loader) == found


# GB212


def test_a_biased_variance_follows_its_damage() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
    (x,) = normal(1, 12, 8)
    with torch.no_grad():
        for _ in range(150):
            model(x)
    batch = [(x, torch.zeros(12, 16))]

    def loss(y: Tensor, _: Tensor) -> Tensor:
        return 0.01 + (y.var(0, correction=0).mean() - 1).abs()

    assert severities("GB212", model, batch, loss=loss) == ["warning"]
    assert severities("GB212", model, batch, loss=lambda y, t: 1 + 0 * y.mean()) == ["info"]


def test_other_running_variances_of_fourteen_values_say_nothing() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16))
    assert severities("GB212", model, normal(2, 12, 8)) == ["info"]
    assert not severities("GB212", model, normal(2, 14, 8))


# GB213


def test_what_is_zero_before_a_relu_is_not_dead() -> None:
    model = nn.Sequential(nn.Linear(8, 32, bias=False), nn.ReLU(), nn.Linear(32, 2))
    nn.init.zeros_(model[0].weight)
    assert not severities("GB213", model, normal(2, 32, 8))


def test_zero_gamma_with_a_beta_below_zero_is_meant() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.constant_(model[1].bias, -1.0)
    assert not severities("GB213", model, normal(2, 32, 8))
    nn.init.constant_(model[1].weight, 0.01)
    assert severities("GB213", model, normal(2, 32, 8)) == ["error"]


# GB214


class Gate(nn.Module):
    """Multiplies by a sigmoid, a third of which is saturated."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(9, 9), nn.Linear(9, 2)
        with torch.no_grad():
            self.fc.weight[:3] *= 1000

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x * torch.sigmoid(self.fc(x)))


def test_a_third_of_a_gate_is_nothing() -> None:
    assert not severities("GB214", Gate(), normal(2, 32, 9))


# GB215


def test_small_initial_weights_are_information() -> None:
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8))
    nn.init.normal_(model[0].weight, std=1e-5)
    assert severities("GB215", model, normal(2, 32, 8)) == ["info"]


def test_behind_a_dead_layer_everything_is_constant() -> None:
    model = nn.Sequential(
        nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)
    )
    nn.init.constant_(model[0].bias, -50.0)
    made = gb.examine(model, normal(2, 32, 8), select=["GB213", "GB215"])
    assert [(each.code, each.severity) for each in made.findings] == [
        ("GB213", "error"),
        ("GB215", "info"),
    ]


# GB216


class Overflows(nn.Module):
    """Divides by zero in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.fc(x))
        return y / torch.zeros_like(y) if self.norm.training else y


class Inverse(nn.Module):
    """Returns 0 / 0."""

    def forward(self, x: Tensor) -> Tensor:
        return (x - x) / (x - x)


class Harmless(nn.Module):
    """Calls a part that returns NaN, and does not use it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.part = nn.Linear(8, 8), Inverse()

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.isnan(self.part(x)), self.fc(x), x)


def test_what_is_not_finite_in_training_mode_only() -> None:
    made = report("GB216", Overflows(), normal(2, 8, 8))
    (it,) = made.findings
    assert it.numbers["mode"] == "training"


def test_what_is_not_finite_and_not_used_is_information() -> None:
    assert severities("GB216", Harmless(), normal(2, 8, 8)) == ["info"]


def test_beyond_float16() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)).half()
    with torch.no_grad():
        model[0].weight.fill_(60000.0)
    made = report("GB216", model, [5 + x.abs().half() for x in normal(2, 8, 8)])
    (it,) = made.findings
    assert "float16" in it.cause
    assert "bfloat16" in it.fix
