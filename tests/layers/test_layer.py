"""Layer norm's own: each example alone, and the shapes it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gammabeta as gb
from tests.layers.cases import CASES


@pytest.mark.parametrize("name", ["layer", "rms"])
def test_an_example_does_not_feel_its_batch(name: str) -> None:
    case = CASES[name]
    layer, x = case.make(), case.input()
    for example in range(len(x)):
        alone = layer(x[example : example + 1])
        torch.testing.assert_close(alone, layer(x)[example : example + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["layer", "group", "rms"])
def test_training_and_evaluation_are_one(name: str) -> None:
    case = CASES[name]
    layer, x = case.make(), case.input()
    assert torch.equal(layer(x), layer.eval()(x))


@pytest.mark.parametrize("make", [gb.LayerNorm, gb.RMSNorm])
def test_wrong_last_dims_are_torchs_error(make: type[torch.nn.Module]) -> None:
    with pytest.raises(RuntimeError, match=r"normalized_shape|\[\*, 12\]"):
        make(12)(torch.zeros(3, 11))


def test_shape_may_be_an_int_a_list_or_a_size() -> None:
    for shape in (6, [6], (6,), torch.Size([6])):
        assert gb.LayerNorm(shape).normalized_shape == (6,)
        assert gb.RMSNorm(shape).normalized_shape == (6,)


def test_eps_of_none_is_torchs_error() -> None:
    """Only RMS norm has a default of its own."""
    layer, torchs = gb.LayerNorm(5), nn.LayerNorm(5)
    layer.eps = torchs.eps = None  # type: ignore[assignment]
    x = torch.randn(8, 5, dtype=torch.bfloat16)
    for one in (layer, torchs):
        with pytest.raises(TypeError, match="eps"):
            one.bfloat16()(x)
