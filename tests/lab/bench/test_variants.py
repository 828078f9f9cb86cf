"""Every form of a network is the same network."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import gammabeta as gb
from gammabeta.lab.bench.nets import default
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.variants import variant


class Block(nn.Module):
    """A residual block as networks have it: one ReLU module, an in-place sum, a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.project = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        self.last, self.group = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.project(x)
        out = functional.relu(out)
        between = self.last(out)  # two read it: it cannot be one call with the ReLU
        return self.group(between.relu() + between)


class Twice(nn.Module):
    """One norm in two places, once with a ReLU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.norm(x).relu())


class Unclear(nn.Module):
    """What torch.fx cannot follow."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("make", [Block, Twice, lambda: default(2, 4)])
def test_gammabetas_form_computes_what_torchs_does(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    for parameter in model.parameters():  # γ = 1, β = 0 would hide which is whose
        nn.init.normal_(parameter)
    state = copy.deepcopy(model.state_dict())
    forms = {name: variant(name, model) for name in ("torch", "gammabeta")}
    x = torch.randn(5, 3, 6, 6)
    outs = {name: form(x) for name, form in forms.items()}
    torch.testing.assert_close(outs["gammabeta"], outs["torch"])
    # The same layers have seen the batch, by the same names.
    theirs, ours = (form.state_dict() for form in forms.values())
    assert theirs.keys() == ours.keys() == state.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key  # the model itself is as it was


def test_activation_and_residual_go_into_the_norm() -> None:
    form = variant("gammabeta", Block())
    layers = dict(form.named_modules())
    assert {name: layers[name].activation for name in ("bn1", "bn2", "last")} == {  # type: ignore[union-attr]
        "bn1": "relu",
        "bn2": "relu",
        "last": None,
    }
    assert isinstance(layers["project.1"], gb.BatchNorm2d)
    assert isinstance(layers["group"], gb.GroupNorm)
    (call,) = (node for node in form.graph.nodes if node.target == "bn2")  # type: ignore[union-attr]
    assert call.kwargs["residual"].target == "project.1"
    assert "relu" not in layers


def test_a_norm_in_two_places_keeps_to_itself() -> None:
    layer = variant("gammabeta", Twice()).get_submodule("norm")
    assert isinstance(layer, gb.BatchNorm2d)
    assert layer.activation is None


def test_with_the_norms_taken_out_the_rest_is_the_same() -> None:
    model = default(2, 4)
    form = variant("relu", model)
    assert not [m for m in form.modules() if isinstance(m, nn.BatchNorm2d)]
    without = nn.Sequential(*(m for m in model.children() if not isinstance(m, nn.BatchNorm2d)))
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(form(x), without(x))


def test_what_cannot_be_traced_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match=r"cannot be traced by torch\.fx: symbolically traced"):
        variant("gammabeta", Unclear())


def test_lean_is_absent_until_the_layers_have_it() -> None:
    if "memory" not in inspect.signature(gb.BatchNorm2d).parameters:
        with pytest.raises(Absent, match="gammabeta's layers have no memory= yet"):
            variant("lean", default(1, 4))
        return
    layer = variant("lean", default(1, 4)).get_submodule("1")
    assert isinstance(layer, gb.BatchNorm2d)
    assert (layer.memory, layer.activation) == ("lean", "relu")
