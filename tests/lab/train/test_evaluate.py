"""Evaluation: what is counted, by hand; and models that are left as they were."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.lab.models import Inception
from gammabeta.lab.train.evaluate import Errors, Evaluation, evaluate, many_crops

SCORES = torch.tensor(
    [
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0],
        [9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0],
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 9.0],
    ]
)
# Right; 5th; 6th; right.
LABELS = torch.tensor([0, 4, 1, 6])


class Scores(nn.Module):
    """A model whose scores are known: the logarithms of ``probabilities``, whatever it sees."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.tensor(probabilities).log())

    def forward(self, x: Tensor) -> Tensor:
        return self.scores.expand(len(x), -1)


class Net(nn.Module):
    """A small network that sees where things are."""

    input_size = 7

    def __init__(self, seed: int = 0, classes: int = 6) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.norm = gb.BatchNorm2d(2, activation="relu")
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(98, classes)
        with torch.no_grad():
            self.head.weight.copy_(torch.randn(classes, 98, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.drop(self.norm(x)).flatten(1))
        return y


def images(n: int, height: int = 7, width: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, height, width, generator=torch.Generator().manual_seed(seed)) + 1


def labels(n: int) -> Tensor:
    return torch.arange(n) % 6


def test_errors_are_counted() -> None:
    found = evaluate(nn.Identity(), [(SCORES[:3], LABELS[:3]), (SCORES[3:], LABELS[3:])])
    assert (found.n, found.top1_error, found.top5_error) == (4, 0.5, 0.25)
    assert found.accuracy == 0.5
    expected = nn.functional.cross_entropy(SCORES.double(), LABELS)
    assert found.loss == pytest.approx(float(expected))
    assert found.members == (found.errors,)
    assert str(found) == (
        "top-1 error 50.00%, top-5 error 25.00%  (4 images, 1 model, 1 crop, moving statistics)"
    )


def test_fewer_than_five_classes() -> None:
    found = evaluate(Scores(0.5, 0.3, 0.2), [(torch.zeros(4, 1), torch.tensor([0, 1, 2, 0]))])
    assert (found.top1_error, found.top5_error) == (0.5, 0.0)


def test_probabilities_are_averaged_not_scores() -> None:
    # Means: 0.3005, 0.225, 0.235, 0.24; geometric means, as of scores: 0.02, 0.22, 0.19, 0.19.
    models = [Scores(0.6, 0.2, 0.1, 0.1), Scores(0.001, 0.25, 0.37, 0.379)]
    found = evaluate(models, [(torch.zeros(1, 1), torch.tensor([0]))])
    assert found.top1_error == 0
    assert [member.top1_error for member in found.members] == [0, 1]
    assert found.loss == pytest.approx(-math.log(0.3005), rel=1e-6)
    lines = str(found).splitlines()
    assert "mean of 2 models" in lines[0]
    assert lines[1:] == [
        "  model 1: top-1 error 0.00%, top-5 error 0.00%",
        "  model 2: top-1 error 100.00%, top-5 error 0.00%",
    ]


def test_what_is_not_finite_is_wrong() -> None:
    scores = SCORES.clone()
    scores[0, 3] = math.nan
    scores[3] = math.inf
    found = evaluate(nn.Identity(), [(scores, LABELS)])
    assert (found.top1_error, found.top5_error, found.errors.nonfinite) == (1.0, 0.75, 2)
    assert math.isnan(found.loss)
    assert str(found).startswith("top-1 error 100.00%, top-5 error 75.00%, 2 not finite  (4")


def test_of_144_crops_the_probabilities_are_averaged() -> None:
    net, x, y = Net().eval(), images(5, 9, 12), labels(5)
    with torch.no_grad():
        total = sum((net(crop).double().softmax(1) for crop in many_crops(x, 7)), torch.zeros(()))
    expected = Errors()
    expected.add(total / 144, y)
    found = evaluate(net.train(), [(x, y)], crops=144)
    assert found.crops == 144
    assert found.errors.n == 5
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert found.top1_error == expected.top1_error
    assert found.loss != evaluate(net, [(x, y)]).loss
    # Images one by one, as where their sizes differ.
    apart = evaluate(net, [(list(x), y)], crops=144)
    assert apart.loss == pytest.approx(expected.loss, rel=1e-6)


def test_a_square_images_crops_are_run_once() -> None:
    net, x, y = Net().eval(), images(3, 9, 9), labels(3)
    calls: list[int] = []
    net.register_forward_pre_hook(lambda m, args: calls.append(len(args[0])))
    found = evaluate(net, [(x, y)], crops=144)
    assert calls == [3] * 48
    expected = Errors()
    with torch.no_grad():
        every = torch.stack([net(crop).double().softmax(1) for crop in many_crops(x, 7)])
    assert len(every) == 144
    expected.add(every.mean(0), y)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    assert evaluate(net, [(list(x), y)], crops=144).loss == found.loss
    # A mixture has all of them.
    calls.clear()
    mixed = [*x, images(1, 9, 12)[0]]
    assert evaluate(net, [(mixed, labels(4))], crops=144).n == 4
    assert calls == [4] * 144


def test_images_of_several_sizes_are_cropped_to_the_models() -> None:
    net = Net()
    several = [images(1, 9, 12)[0], images(1, 7, 7, seed=1)[0], images(1, 30, 8, seed=2)[0]]
    found = evaluate(net, [(several, labels(3))])
    one_by_one = [
        evaluate(net, [(image[None], labels(3)[k : k + 1])]).loss for k, image in enumerate(several)
    ]
    assert found.n == 3
    assert found.loss == pytest.approx(sum(one_by_one) / 3, rel=1e-6)
    together = [(several, labels(3)), ([], labels(0))]
    assert evaluate(net, together).loss == found.loss
    assert evaluate(net, [(tuple(several), labels(3))]).loss == found.loss
    assert evaluate(net, [(images(3, 9, 9), labels(3))], input_size=7).n == 3


# Statistics.


def test_population_statistics_are_algorithm_2() -> None:
    net, x, y = Net(), images(40), labels(40)
    batches = [3 * images(16, seed=5), 3 * images(16, seed=6)]
    twin = copy.deepcopy(net)
    gb.calibrate(twin, batches, progress=False)
    expected = evaluate(twin, [(x, y)]).loss
    found = evaluate(net, [(x, y)], statistics="population", calibration=batches)
    assert found.loss == expected
    assert found.statistics == "population"
    assert found.loss != evaluate(net, [(x, y)]).loss
    # Without batch norm there is nothing to measure.
    plain = nn.Sequential(nn.Flatten(), nn.Linear(98, 6))
    both = evaluate([net, plain], [(x, y)], statistics="population", calibration=batches)
    assert both.members[0].loss == expected
    assert both.members[1].loss == evaluate(plain, [(x, y)]).loss


def snapshot(models: list[nn.Module]) -> list[Any]:
    return [
        *(
            (name, tensor.clone())
            for model in models
            for name, tensor in model.state_dict().items()
        ),
        [module.training for model in models for module in model.modules()],
        [len(module._forward_hooks) for model in models for module in model.modules()],
        torch.get_rng_state(),
        random.getstate(),
        repr(numpy.random.get_state()),
    ]


def same(one: list[Any], other: list[Any]) -> bool:
    for a, b in zip(one, other, strict=True):
        if isinstance(a, tuple) and len(a) == 2 and isinstance(a[1], Tensor):
            if a[0] != b[0] or not torch.equal(a[1], b[1]):
                return False
        elif isinstance(a, Tensor):
            if not torch.equal(a, b):
                return False
        elif a != b:
            return False
    return True


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("statistics", ["moving", "population"])
def test_models_are_left_as_they_were(statistics: str, fails: bool) -> None:
    models: list[nn.Module] = [Net(0), Net(1)]
    models[0].get_submodule("drop").eval()
    models[1].eval()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        torch.rand(3)  # a loader that draws
        random.random()
        yield images(8), labels(8)
        if fails:
            raise RuntimeError("disk gone")
        yield images(8, seed=2), labels(8)

    before = snapshot(models)
    calibration = [images(8)] if statistics == "population" else None
    arguments: dict[str, Any] = {"statistics": statistics, "calibration": calibration}
    if fails:
        with pytest.raises(RuntimeError, match="disk gone"):
            evaluate(models, batches(), **arguments)
    else:
        assert evaluate(models, batches(), **arguments).n == 16
    assert same(before, snapshot(models))


def test_evaluation_mode_is_used() -> None:
    net = Net().train()
    first, second = (evaluate(net, [(images(8), labels(8))]).loss for _ in range(2))
    assert first == second  # no dropout
    alone = evaluate(net, [(images(8)[:1], labels(1))])
    assert alone.n == 1  # no statistics of the mini-batch
    with torch.no_grad():
        scores = net.eval()(images(8)[:1]).double()
    expected = float(nn.functional.cross_entropy(scores, labels(1)))
    assert alone.loss == pytest.approx(expected, rel=1e-12)


def test_inception_knows_its_size() -> None:
    net = Inception(6, input_size=28, width=1 / 16, in_channels=2)
    assert evaluate(net, [(images(2, 40, 50), labels(2))]).n == 2


# Bad input.


def test_bad_arguments() -> None:
    net, batches = Net(), [(images(4), labels(4))]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"models": []}, "models is empty; give one module or several"),
        ({"crops": 10}, "crops=10 must be 1 or 144"),
        ({"statistics": "populaton"}, "did you mean 'population'"),
        ({"statistics": "population"}, "statistics='population' needs calibration="),
        ({"calibration": batches}, "calibration= is for statistics='population'"),
        ({"batches": []}, "batches is empty"),
        ({"batches": [(images(4), labels(3))]}, "labels have shape"),
        ({"batches": [(images(4), labels(4) + 3)]}, "label 6 is not a class of the model"),
        ({"batches": [(images(4), labels(4) - 1)]}, "label -1 is not a class of the model"),
        ({"models": [net, Net(classes=7)]}, "models have different numbers of classes: 6, 7"),
        (
            {"models": nn.Identity(), "batches": [(SCORES, LABELS)], "crops": 144},
            r"crops=144 needs images \(N, C, H, W\), not \(4, 7\)",
        ),
    ]
    for change, said in cases:
        given = {"models": net, "batches": batches, **change}
        with pytest.raises(ValueError, match=said):
            evaluate(given.pop("models"), given.pop("batches"), **given)
    with pytest.raises(TypeError, match="a batch is a Tensor; it must be a pair"):
        evaluate(net, [images(4)])  # type: ignore[list-item]
    assert math.isnan(Errors().top1_error)
    assert math.isnan(Evaluation(Errors()).top5_error)
