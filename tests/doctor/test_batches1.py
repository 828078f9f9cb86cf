"""Rules GB201 to GB208 in both directions: what makes them speak, and what must not."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.doctor.evidence.composition import compared
from gammabeta.doctor.evidence.feature_axis import FeatureAxes
from gammabeta.doctor.evidence.observe import TorchFunctionMode
from gammabeta.doctor.evidence.padding import valid_positions
from gammabeta.doctor.evidence.part import distance, examples


def codes(report: gb.Report, above: str = "warning") -> set[str]:
    """Return the codes of findings of this severity and above; a failed rule fails the test."""
    assert not report.notes
    return {found.code for found in report.at_least(above)}


def examine(model: nn.Module, batches: Any, **kwargs: Any) -> gb.Report:
    codes_of_this_file = [f"GB20{number}" for number in range(1, 9)]
    return gb.examine(model, batches, select=codes_of_this_file, **kwargs)


def mlp(inputs: int = 6, outputs: int = 3, **kwargs: Any) -> nn.Sequential:
    norm = nn.BatchNorm1d(16, **kwargs)
    return nn.Sequential(nn.Linear(inputs, 16), norm, nn.ReLU(), nn.Linear(16, outputs))


def task(number: int = 512) -> tuple[Tensor, Tensor]:
    x = torch.randn(number, 6) + 1
    return x, (x[:, :3]).argmax(1)


def fitted() -> tuple[nn.Module, Tensor, Tensor]:
    """Return a trained model and its data."""
    return copy.deepcopy(_fitted())


@functools.cache
def _fitted() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model, (x, y) = mlp(), task()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(100):
        batch = torch.randint(len(x), (32,))
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model, x, y


# GB201


@pytest.mark.parametrize("number", [1, 2, 8])
@pytest.mark.parametrize("loss", [None, F.cross_entropy])
def test_trained_is_silent(number: int, loss: Any) -> None:
    model, x, y = fitted()
    batches = [(x[b], y[b]) for b in torch.randperm(512).split(32)[:number]]
    assert not codes(examine(model, batches, loss=loss), "info")


@pytest.mark.parametrize("loss", [None, F.cross_entropy])
def test_stale_statistics(loss: Any) -> None:
    model, x, y = fitted()
    model[1].running_mean.add_(3.0)
    batches = [(x[b], y[b]) for b in torch.randperm(512).split(64)]
    report = examine(model, batches, loss=loss)
    (found,) = report.findings
    assert (found.code, found.layer) == ("GB201", "1")
    assert "gb.calibrate(" in found.fix
    if loss is not None:
        assert found.severity == "error"
        assert found.numbers["accuracy before"] < found.numbers["accuracy after calibration"]
        assert found.numbers["loss before"] > found.numbers["loss after calibration"]
        assert "accuracy" in found.cost


def test_stale_statistics_of_an_untrained_model_mean_nothing() -> None:
    torch.manual_seed(0)
    model, (x, y) = mlp(), task(64)
    batches = [(5 * x[b] + 3, y[b]) for b in torch.arange(64).split(32)]
    assert not codes(examine(model, batches, loss=F.cross_entropy))
    for _ in range(3):
        model(x)  # no longer initial, but nothing is learned
    assert not codes(examine(model, batches, loss=F.cross_entropy))


def test_stale_statistics_that_are_frozen_on_purpose() -> None:
    model, x, y = fitted()
    model[1].running_mean.add_(3.0)
    model.train()
    model[1].eval()
    batches = [(x[b], y[b]) for b in torch.randperm(512).split(64)]
    assert not codes(examine(model, batches, loss=F.cross_entropy))


# GB202


class Keeps(nn.Module):
    """Does not pass the mode on."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def train(self, mode: bool = True) -> Keeps:
        self.training = mode
        return self

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Switches(nn.Module):
    """Puts its norm into training mode at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.train()(x)


@pytest.mark.parametrize(
    ("model", "layer"),
    [(Keeps(mlp()), "inner.1"), (Keeps(nn.Dropout(0.5)), "inner"), (Switches(), "norm")],
)
def test_eval_without_effect(model: nn.Module, layer: str) -> None:
    report = examine(model, [torch.randn(8, 6)] * 2)
    assert codes(report) == {"GB202"}
    assert layer in report.findings[0].layers


def test_frozen_in_train_is_no_lost_mode() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> Frozen:
            super().train(mode)
            self[1].eval()
            return self

    assert not codes(examine(Frozen(*mlp()), [torch.randn(8, 6)] * 2))
    assert not codes(examine(gb.freeze(mlp()), [torch.randn(8, 6)] * 2))


# GB203


class Applies(nn.Module):
    """A function between two layers."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@pytest.mark.parametrize(
    ("function", "depends"),
    [
        (lambda x: x.softmax(0), True),
        (lambda x: x - x.mean(0), True),
        (lambda x: x / x.abs().max(), True),
        (lambda x: x.cumsum(0), True),  # only later examples change
        (lambda x: x.softmax(-1), False),
        (lambda x: x - x.mean(1, keepdim=True), False),
        (lambda x: x + torch.randn_like(x), False),  # by chance, not by its mates
        (lambda x: F.layer_norm(x, (6,)), False),
    ],
)
def test_batch_dependent_evaluation(function: Any, depends: bool) -> None:
    torch.manual_seed(0)
    report = examine(Applies(function), list(torch.randn(2, 8, 6)))
    assert codes(report) == ({"GB203"} if depends else set())


def test_batch_dependence_is_put_where_it_begins() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Applies(lambda x: x.softmax(0)), nn.Linear(2, 2))
    (found,) = examine(model, list(torch.randn(2, 8, 6))).findings
    assert found.layer == "1"


def test_time_first_is_no_dependence() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    assert not codes(examine(Net(), list(torch.randn(2, 9, 4, 6))))


def test_norms_without_statistics_follow_their_damage() -> None:
    report = examine(mlp(track_running_stats=False), list(torch.randn(2, 8, 6)))
    assert codes(report) == {"GB203"}
    instance = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8))
    assert not codes(examine(instance, list(torch.randn(2, 4, 3, 8, 8))))
    one = examine(mlp(track_running_stats=False), list(torch.randn(2, 2, 6)))
    assert codes(one) == {"GB203", "GB206"}  # one example alone is refused


# GB204


def test_axes_are_followed() -> None:
    axes = FeatureAxes()

    class Follow(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            axes.follow(func, args, kwargs or {}, out)
            return out

    linear, conv = nn.Linear(5, 4), nn.Conv2d(3, 4, 1)
    with Follow():
        x = linear(torch.randn(2, 4, 5))
        image = conv(torch.randn(2, 3, 4, 4))
        checks = [
            (x, 2),
            (x.transpose(1, 2), 1),
            (x.mT.relu() * 2, 1),
            (x + x.transpose(1, 2), None),
            (x + torch.randn(2, 4, 4), None),
            (image, 1),
            (image.permute(0, 2, 3, 1), 3),
            (image.flatten(2), 1),
            (image.flatten(2).transpose(1, 2), 2),
            (image.movedim(1, -1), 3),
            (F.avg_pool2d(image, 2), 1),
            (torch.cat([x, x], 1), 2),
            (x @ torch.randn(2, 4, 4), None),
            (image.flatten(1), None),
        ]
    assert [axes.of(y) for y, _ in checks] == [dim for _, dim in checks]


class Frames(nn.Module):
    """A linear layer, then a norm on dim 1 or on the last."""

    def __init__(self, norm: nn.Module, swap: bool) -> None:
        super().__init__()
        self.embed, self.norm, self.swap = nn.Linear(6, 8), norm, swap

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.norm(x.transpose(1, 2)).transpose(1, 2) if self.swap else self.norm(x)


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.InstanceNorm1d, gb.BatchNorm1d])
@pytest.mark.parametrize("swap", [True, False])
def test_wrong_axis(norm: Any, swap: bool) -> None:
    report = examine(Frames(norm(8), swap), list(torch.randn(2, 12, 8, 6)))
    assert codes(report) == (set() if swap else {"GB204"})


def test_positions_on_purpose() -> None:
    assert not codes(examine(Frames(nn.BatchNorm1d(9), False), list(torch.randn(2, 12, 9, 6))))
    assert not codes(examine(Frames(nn.LayerNorm([8, 8]), True), list(torch.randn(2, 12, 8, 6))))


@pytest.mark.parametrize("dim", [1, 2])
def test_raw_series(dim: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 32, 16, 16).cumsum(dim + 1) + 5 * torch.randn(16).unsqueeze(2 - dim)
    report = examine(nn.Sequential(nn.BatchNorm1d(16), nn.Conv1d(16, 4, 3)), list(x))
    assert codes(report) == ({"GB204"} if dim == 1 else set())


# GB205


def test_valid_positions() -> None:
    torch.manual_seed(0)
    model = nn.Embedding(9, 4)
    ragged = torch.arange(12) < torch.randint(4, 13, (8, 1))
    x = torch.randn(8, 12, 5)
    padded = x * ragged[..., None]
    assert valid_positions(model, x) is None
    assert torch.equal(valid_positions(model, padded), ragged)
    assert torch.equal(valid_positions(model, padded.transpose(1, 2)), ragged)
    assert torch.equal(valid_positions(model, padded.flip(1)), ragged.flip(1))
    assert torch.equal(valid_positions(model, (x, ragged.sum(1), x)), ragged)
    assert torch.equal(valid_positions(model, {"x": x, "attention_mask": ragged.long()}), ragged)
    assert torch.equal(valid_positions(model, {"x": x, "src_key_padding_mask": ~ragged}), ragged)
    tokens = torch.randint(1, 9, (8, 12)) * ragged
    assert torch.equal(valid_positions(model, tokens), ragged)
    assert valid_positions(model, torch.randint(9, (8, 12))) is None
    rows = torch.zeros(8, 28, 28)  # digits, row by row: empty above and below
    for image, top in zip(rows, range(2, 10), strict=True):
        image[top : top + 18] = 1 + torch.rand(18, 28)
    assert valid_positions(model, rows) is None
    assert valid_positions(model, torch.zeros(4, 3, 8, 8)) is None


def test_little_padding_and_padding_that_is_taken_out_are_silent() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(5, 8, 1), nn.BatchNorm1d(8))
    lengths = torch.full((16,), 40)
    lengths[0] = 30
    x = torch.randn(16, 5, 40)
    assert not codes(examine(model, [x * (torch.arange(40) < lengths[:, None, None])] * 2))
    lengths = torch.randint(5, 41, (16, 1, 1))
    report = examine(model, [(2 + x) * (torch.arange(40) < lengths)] * 2)
    assert codes(report) == {"GB205"}
    assert report.findings[0].layer == "1"


# GB206


@pytest.mark.parametrize(
    ("size", "severity"), [(1, "error"), (2, "error"), (3, "warning"), (4, "info"), (8, None)]
)
def test_few_values(size: int, severity: str | None) -> None:
    report = examine(mlp(), list(torch.randn(3, size, 6)))
    assert [f.severity for f in report.of("GB206")] == ([severity] if severity else [])


def test_few_values_in_evaluation_or_of_a_last_batch_are_silent() -> None:
    assert not codes(examine(mlp().eval(), list(torch.randn(3, 1, 6))), "info")
    ends = [torch.randn(8, 6), torch.randn(8, 6), torch.randn(2, 6)]
    assert not codes(examine(mlp(), ends), "info")


# GB207


def test_shuffled_batches_are_independent() -> None:
    alarms = 0
    for seed in range(15):
        torch.manual_seed(seed)
        sizes = (2 + seed % 7, 4 + 4 * (seed % 8))
        common = torch.randn(*sizes, 1)  # correlated channels
        alarms += compared("features", "", list(common + 0.1 * torch.randn(*sizes, 64))) is not None
        one_hot = F.one_hot(torch.randint(10, sizes), 10).float()
        alarms += compared("labels", "", list(one_hot)) is not None
    assert alarms == 0


def test_a_few_examples_say_nothing() -> None:
    assert compared("features", "", [torch.zeros(4, 3), torch.ones(4, 3)]) is None


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_alternating_domains(shift: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 32, 6)
    x[::2] += shift
    report = examine(mlp(), list(x))
    assert codes(report) == ({"GB207"} if shift else set())
    assert not codes(examine(mlp().eval(), list(x)))


def test_real_and_generated_batches_are_separate_on_purpose() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 32, 6), torch.ones(8, 32, 1)
    x[::2], y[::2] = x[::2] + 1, 0
    assert not codes(examine(mlp(outputs=1), list(zip(x, y, strict=True))))


def test_sorted_by_class_without_a_visible_class() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(8, 32, 6), torch.arange(8)[:, None].expand(8, 32)
    report = examine(mlp(outputs=8), list(zip(x, y, strict=True)), loss=F.cross_entropy)
    assert [(f.code, f.severity) for f in report.findings] == [("GB207", "error")]


# Parts of batches


def test_examples() -> None:
    batch = {"x": torch.arange(4), "more": (torch.arange(8).view(4, 2), 7), "n": torch.tensor(3)}
    part = examples(batch, slice(2, 4), 4)
    assert part["x"].tolist() == [2, 3]
    assert part["more"][0].tolist() == [[4, 5], [6, 7]]
    assert (part["more"][1], int(part["n"])) == (7, 3)


def test_distance() -> None:
    x = torch.tensor([1.0, 2.0, 3.0])
    assert distance(x, x) == 0
    assert distance(x, x + 1) == pytest.approx(1)
    assert distance(torch.zeros(3), torch.zeros(3)) == 0


class Pair(nn.Module):
    """Two inputs, as recommenders, Siamese and graph models have."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp(6, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.net(first - second)


@pytest.mark.parametrize("form", ["flat", "nested", "mapping"])
def test_models_of_two_inputs(form: str) -> None:
    torch.manual_seed(0)
    a, b, y = torch.randn(4, 32, 6), torch.randn(4, 32, 6), torch.rand(4, 32, 1)
    batches: dict[str, list[Any]] = {
        "flat": list(zip(a, b, y, strict=True)),
        "nested": [((p, q), t) for p, q, t in zip(a, b, y, strict=True)],
        "mapping": [
            {"first": p, "second": q, "labels": t} for p, q, t in zip(a, b, y, strict=True)
        ],
    }
    report = examine(Pair(), batches[form], loss=F.mse_loss)
    assert report.healthy
    assert not report.notes
    assert report.passes > 4


@pytest.mark.parametrize("leaking", [True, False])
def test_a_list_of_one_query_leaks_its_binary_labels(leaking: bool) -> None:
    torch.manual_seed(0)
    query = torch.randn(40, 1, 12) * 3
    y = (torch.rand(40, 16) < 0.5).float()
    x = torch.randn(40, 16, 12) + 1.2 * y[..., None] + query
    if not leaking:  # the lists of different queries are mixed
        order = torch.randperm(640)
        x, y = x.flatten(0, 1)[order].view_as(x), y.flatten()[order].view_as(y)
    model = mlp(12, 1)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for step in range(200):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(x[step % 40]).squeeze(1), y[step % 40])
        loss.backward()
        optimizer.step()
    found = codes(
        examine(
            model,
            list(zip(x, y, strict=True)),
            loss=lambda z, t: F.binary_cross_entropy_with_logits(z.squeeze(1), t),
        )
    )
    assert found == ({"GB208"} if leaking else set())


def test_an_average_that_has_just_begun_is_no_bug() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 2))
    model[0].weight.data.mul_(0.1)  # variances far below the initial 1
    x = torch.randn(60, 64, 6)
    for batch in x[:45]:
        model(batch)
    assert not codes(examine(model, list(x[:8])))
    model[1].num_batches_tracked.fill_(1000)
    model[1].running_var.mul_(4)
    assert codes(examine(model, list(x[:8]))) == {"GB201"}


def test_inputs_that_do_not_index_examples_are_no_failure() -> None:
    torch.manual_seed(0)

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp(6, 3)

        def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
            return self.net(adjacency @ x)

    batches = [(torch.randn(20, 6), torch.eye(20)) for _ in range(4)]
    report = examine(Graph().eval(), batches)
    assert not codes(report)
    assert not report.notes
