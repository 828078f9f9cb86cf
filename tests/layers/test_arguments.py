"""Arguments that are nothing of the kind: one line that names the argument, and its value."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import gammabeta as gb

SIZES: dict[str, tuple[Callable[[object], nn.Module], str]] = {
    "FrozenBatchNorm1d": (lambda v: gb.FrozenBatchNorm1d(v), "num_features"),
    "FilterResponseNorm2d": (lambda v: gb.FilterResponseNorm2d(v), "num_features"),
    "TLU": (lambda v: gb.TLU(v), "num_features"),
    "DynamicTanh": (lambda v: gb.DynamicTanh(v), "normalized_shape"),
    "LayerNormLSTM": (lambda v: gb.LayerNormLSTM(v, 3), "input_size"),
    "GroupNorm": (lambda v: gb.GroupNorm(v, 4), "num_groups"),
    "GhostBatchNorm1d": (lambda v: gb.GhostBatchNorm1d(4, virtual_batch_size=v), "virtual_batch"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, value)
        for name in SIZES
        for value in (0, -1, "a", 2.5, None)
        # Of what is no sequence, torch's layer too says that it is not iterable.
        if name != "DynamicTanh" or isinstance(value, (int, str))
    ],
)
def test_sizes(name: str, value: object) -> None:
    make, argument = SIZES[name]
    with pytest.raises(ValueError, match=f"^{argument}.*={value!r}: "):
        make(value)


@pytest.mark.parametrize("value", [0, -1, "a", 2.5, None, [], float("nan")], ids=repr)
def test_num_groups_set_later(value: object) -> None:
    layer = gb.GroupNorm(2, 4)
    layer.num_groups = value
    with pytest.raises(ValueError, match=r"^num_groups=.*: give a number that divides"):
        layer(torch.randn(2, 4, 3))


@pytest.mark.parametrize(
    "layer",
    [gb.BatchNorm1d(4), gb.LayerNorm(4), gb.RMSNorm(4), gb.FrozenBatchNorm1d(4), gb.DynamicTanh(4)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("value", ["rleu", 5, [], float("nan"), True], ids=repr)
@pytest.mark.parametrize("size", [3, 20_000])  # on torch's operators, and on ours
def test_an_activation_set_later(layer: nn.Module, value: object, size: int) -> None:
    layer.activation = value
    with pytest.raises(ValueError, match=r"^activation=.* is not known"):
        layer(torch.randn(size, 4))
    layer.activation = None


def test_what_is_no_mask_and_no_module() -> None:
    with pytest.raises(TypeError, match=r"^mask is a int; give a bool tensor"):
        gb.MaskedBatchNorm1d(4)(torch.randn(3, 4, 2), mask=5)
    with pytest.raises(TypeError, match=r"^model is a int; give a torch\.nn\.Module"):
        gb.guard_statistics(5)
