"""Accuracies are exact counts, whatever the batches, and leave the model as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gammabeta.lab.models import Stack
from gammabeta.lab.train.accuracy import accuracy, correct, count_correct, evaluating, split


def toy(examples: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(examples, 2, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("examples", [1, 5, 2048, 2049, 5000])
def test_it_is_the_fraction_of_correct_predictions(examples: int) -> None:
    x, y = toy(examples)
    sign = nn.Linear(2, 2, bias=False)
    for weight, expected in (
        ([[-1.0, 0], [1, 0]], 1.0),
        ([[1.0, 0], [-1, 0]], 0.0),
        ([[0.0, 0], [0, 0]], int((y == 0).sum()) / examples),  # a tie goes to class 0
    ):
        with torch.no_grad():
            sign.weight.copy_(torch.tensor(weight))
        assert accuracy(sign, split(x, y, 2048)) == expected


def test_a_crowd_has_a_count_for_each_member() -> None:
    x, y = toy(50)
    scores = torch.stack([nn.functional.one_hot(y, 2), nn.functional.one_hot(1 - y, 2)])
    assert correct(scores, y).tolist() == [50, 0]
    right, seen = count_correct(lambda part: part[:, :1] * torch.ones(3, 1, 2), split(x, y, 7))
    assert (right.shape, seen) == ((3,), 50)
    assert count_correct(lambda x: x, []) == (0, 0)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_as_it_was(training: bool) -> None:
    model = Stack(2, 2, norm="batch").train(training)
    model.classifier.train(not training)  # a module in a mode of its own keeps it
    state = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    x, y = toy(50)
    accuracy(model, [(x, y)])
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        accuracy(model, [(torch.zeros(4, 9), y)])
    assert [module.training for module in model.modules()] == modes


def test_within_the_context_every_module_evaluates() -> None:
    model = Stack(2, 2, norm="batch")
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
