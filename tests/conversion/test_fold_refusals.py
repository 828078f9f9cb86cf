"""What folding refuses, by name and with the reason; the rest of the model is still folded."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import gammabeta as gb
from gammabeta.conversion.folding.model_copy import copy_model
from gammabeta.layers.traits import traits
from tests.conversion.test_fold import folded, norms_in, trained


class Net(nn.Module):
    """conv → bn, then conv2 → bn2; ``how`` says what forward does with them."""

    def __init__(self, how: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1), gb.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.act = nn.ReLU()
        self.how = how

    def forward(self, x: Tensor) -> Any:
        return self.bn2(self.conv2(self.how(self, x)))


def net(how: Callable[[Any, Tensor], Any]) -> Any:
    return trained(Net(how))


def refused(model: nn.Module, names: set[str], reason: str, x: Tensor | None = None) -> Any:
    """Fold, and see that ``names`` alone are left, for ``reason``, and the outputs right."""
    x = torch.randn(2, 3, 6, 6) if x is None else x
    model = model.double()
    x = x.double() if x.is_floating_point() else x
    expected = model(x)
    result, report = folded(model)
    assert {left.names[0] for left in report.left} == names, report
    for left in report.left:
        assert reason in left.reason, left.reason
    assert set(norms_in(result)) >= names
    torch.testing.assert_close(result(x), expected, rtol=1e-11, atol=1e-11)
    return result


DATA_FLOW: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "conv's output has other consumers": (
        lambda m, x: m.act(m.bn(y := m.conv(x))) + y,
        "its input also goes to add",
    ),
    "conv's output has other consumers that reshape it": (
        lambda m, x: m.act(m.bn(y := m.conv(x))) + y.view_as(x),
        "its input also goes to view_as",
    ),
    "conv's output is the norm's residual": (
        lambda m, x: m.act(m.bn(y := m.conv(x), y)),
        "its input is its residual, too",
    ),
    "the conv is used twice": (
        lambda m, x: m.act(m.bn(m.conv(x))) + m.conv(x),
        "'conv' is called 2 times, not only with this norm",
    ),
    "the norm is used twice": (
        lambda m, x: m.act(m.bn(m.conv(x))) + m.act(m.bn(m.act(x))),
        "it is called 2 times, and its input comes from 'act', 'conv'",
    ),
    "the norm is used on two convolutions": (
        lambda m, x: m.act(m.bn(m.conv(x))) + m.act(m.bn(m.conv2(x))),
        "it is called 2 times",
    ),
    "the conv's weight is used by a function": (
        lambda m, x: m.act(m.bn(m.conv(x))) + F.conv2d(x, m.conv.weight, padding=1),
        "other code uses its weights",
    ),
    "the norm's weight is used by a function": (
        lambda m, x: m.act(m.bn(m.conv(x))) * m.bn.weight.sum(),
        "other code uses its weights",
    ),
    "the conv's weight is used where it is not recorded": (
        lambda m, x: m.act(m.bn(m.conv(x))) * sum(p.sum() for p in m.conv.parameters()),
        "other code uses its weights",
    ),
    "an activation is between": (
        lambda m, x: m.act(m.bn(F.relu(m.conv(x)))),
        "its input comes from relu",
    ),
    "the output of the conv is changed in place": (
        lambda m, x: (m.act(m.bn(y := m.conv(x))), y.add_(1))[0],
        "its input also goes to add_",
    ),
}


@pytest.mark.parametrize("name", DATA_FLOW)
def test_data_flow(name: str) -> None:
    how, reason = DATA_FLOW[name]
    left = {"bn", "bn2"} if "two convolutions" in name else {"bn"}
    if "two convolutions" in name:
        return refused_two(net(how))
    refused(net(how), left, reason)
    return None


def refused_two(model: Any) -> None:
    x = torch.randn(2, 3, 6, 6).double()
    expected = model.double()(x)
    result, report = folded(model, x)
    reasons = {left.names[0]: left.reason for left in report.left}
    assert "it is called 2 times, and its input comes from 'conv', 'conv2'" in reasons["bn"]
    assert "'conv2' is called 2 times" in reasons["bn2"]
    torch.testing.assert_close(result(x), expected, rtol=1e-11, atol=1e-11)


def test_a_pair_that_is_always_called_together_may_be_called_twice() -> None:
    result = refused(net(lambda m, x: m.bn(m.conv(m.act(m.bn(m.conv(x)))))), set(), "")
    assert type(result.bn) is nn.Identity


def test_an_input_changed_in_place_before_the_layer_after() -> None:
    def how(m: Any, x: Tensor) -> Tensor:
        y = m.act(x)
        z = m.bn(y)
        y.mul_(2)
        return m.conv(z) + y

    model = net(how)
    model.conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
    refused(model, {"bn"}, "mul_ runs in between")


def alter(what: str, model: Any) -> None:
    conv, bn = model.conv, model.bn
    if what == "training":
        bn.train()
    elif what == "statistics":
        bn.track_running_stats, bn.running_mean, bn.running_var = False, None, None
    elif what == "negative":
        bn.running_var[0] = -1e-7
    elif what == "nan":
        bn.running_mean[0] = float("nan")
    elif what == "zero":
        bn.running_var.zero_()
        bn.eps = 0.0
    elif what == "gamma":
        bn.weight.data[0] = float("inf")
    elif what == "hook":
        bn.register_forward_hook(lambda *_: None)
    elif what == "pre hook":
        conv.register_forward_pre_hook(lambda *_: None)
    elif what == "backward hook":
        conv.register_full_backward_hook(lambda *_: None)
    elif what == "state hook":
        bn.register_state_dict_post_hook(lambda *_: None)
    elif what == "spectral":
        parametrizations.spectral_norm(conv)
    elif what == "weight norm":
        parametrizations.weight_norm(conv)
    elif what == "old weight norm":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            nn.utils.weight_norm(conv)
    elif what == "pruned":
        prune.l1_unstructured(conv, "weight", amount=0.5)
    elif what == "pruned norm":
        prune.l1_unstructured(bn, "weight", amount=0.5)
    elif what == "forward":
        bn.forward = lambda x: type(bn).forward(bn, x) * 2
    elif what == "conv's forward":
        conv.forward = lambda x: type(conv).forward(conv, x) * 2
    elif what == "tied":
        model.other = nn.Conv2d(3, 3, 3)
        model.other.weight = conv.weight
    elif what == "shared memory":
        model.other = nn.Conv2d(3, 3, 3)
        model.other.weight.data = conv.weight.data
    elif what == "buffer":
        bn.register_buffer("extra", torch.zeros(1))


ALTERED = {
    "training": "training mode",
    "statistics": "no running statistics",
    "negative": "variance is negative",
    "nan": "statistics are not finite",
    "zero": "variance is 0 and so is eps",
    "gamma": "its weight is not finite",
    "hook": "it has hooks",
    "pre hook": "'conv': it has hooks",
    "backward hook": "'conv': it has hooks",
    "state hook": "it has hooks",
    "spectral": "'conv': it is parametrized",
    "weight norm": "'conv': it is parametrized",
    "old weight norm": "'conv': it has weight norm",
    "pruned": "'conv': it is pruned",
    "pruned norm": "it is pruned",
    "forward": "forward was replaced",
    "conv's forward": "'conv': its forward was replaced",
    "tied": "another layer has the same weights",
    "shared memory": "another layer has the same weights",
    "buffer": "it has a tensor of its own, 'extra'",
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*")
@pytest.mark.parametrize("what", ALTERED)
def test_layers_that_are_more_than_they_seem(what: str) -> None:
    torch.manual_seed(0)
    model = net(lambda m, x: m.act(m.bn(m.conv(x))))
    alter(what, model)
    x = torch.randn(2, 3, 6, 6)
    before = copy_model(model)
    result, report = folded(model)
    assert [left.names for left in report.left] == [("bn",)], report
    assert ALTERED[what] in report.left[0].reason
    assert [one.names for one in report.folded] == [("bn2",)]
    if what == "training":
        model.bn.eval(), result.bn.eval(), before.bn.eval()
    # Two float32 layers: some ten roundings of values around 10.
    torch.testing.assert_close(result(x), before(x), rtol=1e-4, atol=1e-4, equal_nan=True)


class OwnForwardNorm(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


@pytest.mark.parametrize(
    ("norm", "reason"),
    [
        (OwnForwardNorm(3), "subclass with a forward of its own"),
        (nn.BatchNorm2d(3, track_running_stats=False), "no running statistics"),
        (nn.GroupNorm(1, 3), "GroupNorm normalizes by its input"),
        (nn.InstanceNorm2d(3), "InstanceNorm2d normalizes by its input"),
        (gb.GroupNorm(1, 3), "GroupNorm normalizes by its input"),
        (nn.LayerNorm(6), "LayerNorm normalizes by its input"),
    ],
)
def test_kinds_of_norms(norm: Any, reason: str) -> None:
    model = net(lambda m, x: m.act(m.bn(m.conv(x))))
    model.bn = norm.eval()
    refused(model, {"bn"}, reason)


def test_layers_without_values() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)).eval()
    with pytest.raises(ValueError, match="has no values"):
        gb.fold(model)
    lazy = nn.Sequential(nn.LazyConv2d(3, 3), nn.LazyBatchNorm2d()).eval()
    with pytest.raises(ValueError, match="call the model on a batch first"):
        gb.fold(lazy)


def test_a_quantization_aware_layer() -> None:
    qat = torch.ao.nn.qat
    config = torch.ao.quantization.get_default_qat_qconfig()
    conv = qat.Conv2d(3, 3, 3, qconfig=config)
    with pytest.raises(ValueError, match=r"'0': Conv2d is a subclass with a forward of its own"):
        gb.fold(trained(nn.Sequential(conv, nn.BatchNorm2d(3))))


@pytest.mark.parametrize("scale", [1e6, 1e-9])
def test_weights_that_would_not_fit_into_half_precision(scale: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)).half().eval()
    model[2].padding = (1, 1)
    with torch.no_grad():
        model[0].weight.fill_(1e-2 if scale < 1 else 1.0)
        model[1].weight.fill_(min(scale, 6e4) if scale > 1 else 1e-6)
        model[1].running_var.fill_(1.0 if scale < 1 else 1e-3)
        model[1].bias.fill_(1.0)
    _, report = folded(model)
    assert "would not fit into torch.float16" in report.left[0].reason


def test_channels_that_do_not_match() -> None:
    class Unfold(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(5)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x))

    refused(trained(Unfold()), {"norm"}, "'linear' has 6 channels", torch.randn(2, 5, 4))


def test_a_linear_layer_of_three_dims_is_seen_by_the_proof() -> None:
    """BatchNorm1d takes dim 1 for its channels, a linear layer the last; both have 5 here."""
    model = trained(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    assert norms_in(gb.fold(model, torch.randn(2, 4))) == []
    with pytest.raises(ValueError, match="too far from the original"):
        gb.fold(model, torch.randn(2, 5, 4))


class TapsItsFeatures(nn.Module):
    """Untraceable, and calls the layers of a Sequential one by one."""

    def __init__(self, tap: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
        self.tap = tap

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) == 12345.0:
            return x
        conv, norm = self.features
        y = conv(x)
        return norm(y) + y if self.tap else norm(y)


def test_code_that_may_call_layers_one_by_one_needs_an_example() -> None:
    x = torch.randn(2, 3, 4, 4)
    with pytest.raises(ValueError, match="may call the layers of 'features' one by one"):
        gb.fold(trained(TapsItsFeatures(False)))
    assert norms_in(gb.fold(trained(TapsItsFeatures(False)), x)) == []
    with pytest.raises(ValueError, match="too far from the original"):
        gb.fold(trained(TapsItsFeatures(True)), x)


def test_names_of_layers_in_code_that_cannot_be_traced() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner_conv, self.inner_norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner_norm(self.inner_conv(x))

    class Reaches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x) + self.block.inner_conv(x) if x.sum() > 0 else x

    class Calls(Reaches):
        def forward(self, x: Tensor) -> Tensor:
            return self.block(x) if x.sum() > 0 else x

    x = torch.rand(2, 3, 4, 4)
    with pytest.raises(ValueError, match="which could not be traced"):
        gb.fold(trained(Reaches()))
    with pytest.raises(ValueError, match="too far"):
        gb.fold(trained(Reaches()), x)
    assert norms_in(gb.fold(trained(Calls()))) == []


def test_a_layer_that_is_also_in_a_module_that_cannot_be_traced() -> None:
    class Shares(nn.Module):
        def __init__(self, conv: nn.Module) -> None:
            super().__init__()
            self.conv = conv

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x

    model = net(lambda m, x: m.act(m.bn(m.conv(x))) + m.helper(x))
    model.helper = Shares(model.conv)
    for example in (None, torch.rand(2, 3, 6, 6)):
        result, report = folded(model, example)
        assert "'conv': 'helper' calls it, whose code could not be traced" in report.left[0].reason
        assert norms_in(result) == ["bn"]


def test_residuals_around_the_layer_after() -> None:
    def first(m: Any, x: Tensor) -> Tensor:
        return m.conv(m.bn(x, residual=m.act(x)))

    def second(m: Any, x: Tensor) -> Tensor:
        return m.conv(m.bn(m.act(x), residual=m.bn3(x)))

    model = net(first)
    model.conv = nn.Conv2d(3, 3, 1)
    refused(model, {"bn"}, "its residual comes after it")
    model = net(second)
    model.conv, model.bn3 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
    x = torch.randn(2, 3, 6, 6).double()
    expected = trained(model).double()(x)
    result, report = folded(model)
    assert {left.names[0] for left in report.left} == {"bn", "bn3"}
    assert "gets its output in a way of its own" in report.left[1].reason
    torch.testing.assert_close(result(x), expected, rtol=1e-11, atol=1e-11)


class Optional(nn.Module):
    """Traced by itself where it has hooks, and then without its optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor, before: bool = False) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y if before else self.bn(y)


def test_arguments_that_a_module_was_not_traced_with() -> None:
    for hooked in (False, True):
        model = net(lambda m, x: m.bn(m.conv(m.optional(x, before=True))))
        model.optional = trained(Optional())
        if hooked:
            model.optional.register_forward_hook(lambda *_: None)
        _, report = folded(model)
        assert [left.names for left in report.left] == [("optional.bn",)]
        why = "was not traced with" if hooked else "its input also goes to add"
        assert why in report.left[0].reason
    with pytest.raises(ValueError, match="too far"):
        gb.fold(model, torch.rand(2, 3, 6, 6))


def test_layers_that_other_code_refers_to() -> None:
    class Refers(nn.Module):
        def __init__(self, layers: list[nn.Module]) -> None:
            super().__init__()
            self.layers = layers

        def forward(self, x: Tensor) -> Tensor:
            return self.layers[0](x) if x.sum() > 0 else x

    def how(m: Any, x: Tensor) -> Tensor:
        return m.act(m.bn(m.conv(x))) + m.helper(x)

    model = net(how)
    model.helper = Refers([model.conv])
    result, report = folded(model)
    assert "'helper', which could not be traced" in report.left[0].reason
    assert norms_in(result) == ["bn"]
    with pytest.raises(ValueError, match="too far"):
        gb.fold(model, torch.rand(2, 3, 6, 6))


def test_layers_that_are_given_to_other_code() -> None:
    class Takes(nn.Module):
        def forward(self, layer: nn.Module, x: Tensor) -> Tensor:
            return layer(x) if x.sum() > 0 else x

    model = net(lambda m, x: m.act(m.bn(m.conv(x))) + m.helper(m.conv, x))
    model.helper = Takes()
    refused(model, {"bn"}, "'conv': it is given to other code as an argument")


def test_a_subclass_that_adds_nothing_but_arguments() -> None:
    class Named(nn.BatchNorm2d):
        def __init__(self, name: str, channels: int) -> None:
            super().__init__(channels)
            self.name = name

    model = trained(nn.Sequential(nn.Conv2d(3, 3, 1), Named("a", 3)))
    result = refused(model, set(), "")
    assert result[1].name == "a"


def test_training_mode_and_wrong_arguments() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match=r"model=Sequential is in training mode.*call model.eval"):
        gb.fold(model)
    with pytest.raises(TypeError, match="give example="):
        gb.fold(model.eval(), tolerance=1.0)
    with pytest.raises(ValueError, match="tolerance=-1"):
        gb.fold(model, torch.zeros(1, 3, 2, 2), tolerance=-1)
    with pytest.raises(TypeError, match="report"):
        gb.fold(model, report=3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="inplace"):
        gb.fold(model, inplace=1)  # type: ignore[arg-type]


def test_what_is_left_is_warned_of() -> None:
    model = net(lambda m, x: m.act(m.bn(F.relu(m.conv(x)))))
    with pytest.warns(UserWarning, match=r"1 of 2 norms left as they are: bn .*comes from relu"):
        gb.fold(model)


def test_norms_that_nobody_expects_to_be_folded_are_reported_without_a_warning() -> None:
    model = trained(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.LayerNorm(4)))
    gb.fold(model)
    assert [left.names for left in folded(model)[1].left] == [("2",)]
    with pytest.warns(UserWarning, match="1 of 1 norms left.*LayerNorm normalizes by its input"):
        gb.fold(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval())


def test_flattening_the_batch_of_a_linear_layer() -> None:
    class Flattens(nn.Module):
        def __init__(self, first: nn.Module) -> None:
            super().__init__()
            self.first, self.norm = first, nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            return self.norm(y.flatten(0, 1)).reshape_as(y)

    refused(trained(Flattens(nn.Linear(4, 6))), set(), "", torch.randn(2, 5, 4))
    model = trained(Flattens(nn.Conv2d(3, 3, 1)))
    refused(model, {"norm"}, "its input comes from 'first'", torch.randn(2, 3, 6, 6)[:, :, :6, :5])


def test_nothing_to_fold_is_no_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    assert repr(gb.fold(model)) == repr(model)
    once = gb.fold(trained(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))))
    assert repr(gb.fold(once)) == repr(once)
    assert traits(once[1]).normalizes is False


@pytest.mark.parametrize("example", [torch.randn(2, 4, 8, 8), "picture", (1, 2)])
def test_an_example_that_the_model_does_not_take(example):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    said = r"^example: model=Sequential raises .* on it: .*; give "
    with pytest.raises(ValueError, match=said) as raised:
        gb.fold(model, example=example)
    assert "\n" not in str(raised.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
