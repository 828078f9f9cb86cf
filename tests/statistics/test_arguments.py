"""Arguments that will not do are refused by name, before anything is touched."""

import numpy as np
import pytest
import torch
from torch import nn

import gammabeta as gb

DATA = [torch.randn(8, 4, generator=torch.Generator().manual_seed(0))]
FUNCTIONS = {
    "convert": gb.convert,
    "revert": gb.revert,
    "freeze": gb.freeze,
    "unfreeze": gb.unfreeze,
    "calibrate": lambda model: gb.calibrate(model, DATA),
}


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (5, "is of type int"),
        ("x", "is of type str"),
        (None, "is of type NoneType"),
        ([nn.BatchNorm1d(4)], "is of type list"),
        (torch.ones(2), "is of type Tensor"),
        (nn.BatchNorm1d, "is the class BatchNorm1d; give an instance"),
    ],
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_module(function, model, what):
    with pytest.raises(TypeError, match=f"^model {what}"):
        FUNCTIONS[function](model)


@pytest.mark.parametrize(
    ("batches", "what"),
    [
        (5, "is of type int"),
        (None, "is of type NoneType"),
        (lambda: DATA, "is of type function"),
        (list, "is the class list"),
        ("x", "is one str"),
    ],
)
def test_batches_that_are_none(batches, what):
    with pytest.raises(TypeError, match=f"^batches {what}.*an iterable of batches"):
        gb.calibrate(nn.BatchNorm1d(4), batches)


def test_batches_that_can_only_be_indexed():
    class Indexed:
        def __getitem__(self, index):
            return DATA[index]

    assert gb.calibrate(nn.BatchNorm1d(4), Indexed()).batches == 1


@pytest.mark.parametrize(
    "limit", [True, False, 0, -1, 2.5, 2.0, "x", np.array([1, 2]), torch.tensor(2), [1]]
)
def test_a_limit_that_is_no_number_of_batches(limit):
    with pytest.raises(ValueError, match=r"^limit=.* must be at least 1, a whole number"):
        gb.calibrate(nn.BatchNorm1d(4), DATA, limit=limit)


def test_a_limit_of_numpys():
    assert gb.calibrate(nn.BatchNorm1d(4), DATA * 3, limit=np.int64(2)).batches == 2


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"method": None}, ValueError),
        ({"method": ["pooled"]}, ValueError),
        ({"others": 5}, ValueError),
        ({"nonfinite": None}, ValueError),
        ({"small": True}, ValueError),
        ({"forward": 5}, TypeError),
        ({"progress": "yes"}, TypeError),
    ],
)
def test_options_of_the_wrong_type(arguments, error):
    (name,) = arguments
    with pytest.raises(error, match=f"^{name}"):
        gb.calibrate(nn.BatchNorm1d(4), DATA, **arguments)


def test_affine_is_yes_or_no():
    layer = nn.BatchNorm1d(4)
    with pytest.raises(TypeError, match=r"^affine='no' is of type str"):
        gb.freeze(layer, affine="no")
    assert "train" not in layer.__dict__
