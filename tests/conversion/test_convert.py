"""`gammabeta.convert` and `revert`: what changes, and everything that does not."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import gammabeta as gb
from gammabeta.conversion.become import Becoming, become, recast
from gammabeta.conversion.families import TWINS
from tests.conversion.nets import (
    Doubled,
    ThirdParty,
    assert_equal_states,
    assert_same_bits,
    batch_net,
    filled,
    generator,
    images,
    net,
    run,
    state,
)

# One maker and input shape for each of torch's classes.
MAKERS = {
    nn.BatchNorm1d: (lambda: nn.BatchNorm1d(6, eps=1e-3, momentum=0.3), (8, 6)),
    nn.BatchNorm2d: (lambda: nn.BatchNorm2d(6, momentum=None), (4, 6, 3, 3)),
    nn.BatchNorm3d: (lambda: nn.BatchNorm3d(6, affine=False), (4, 6, 2, 3, 3)),
    nn.LayerNorm: (lambda: nn.LayerNorm([3, 6], bias=False), (4, 3, 6)),
    nn.GroupNorm: (lambda: nn.GroupNorm(3, 6, eps=1e-2), (4, 6, 5)),
    nn.RMSNorm: (lambda: nn.RMSNorm(6), (4, 6)),
    nn.InstanceNorm1d: (lambda: nn.InstanceNorm1d(6), (4, 6, 5)),
    nn.InstanceNorm2d: (lambda: nn.InstanceNorm2d(6, affine=True), (4, 6, 3, 3)),
    nn.InstanceNorm3d: (
        lambda: nn.InstanceNorm3d(6, track_running_stats=True),
        (4, 6, 2, 3, 3),
    ),
}
PLAIN = [cls for cls in TWINS if cls in MAKERS]


# Twins


@pytest.mark.parametrize("cls", PLAIN)
@pytest.mark.parametrize("training", [True, False])
def test_each_layer_becomes_its_twin_and_back(cls, training):
    make, shape = MAKERS[cls]
    model = filled(make()).train(training)
    x = torch.randn(shape, generator=generator())
    plain, before = copy.deepcopy(model), state(model)
    assert gb.convert(model) is model
    assert type(model) is TWINS[cls] is getattr(gb.layers, cls.__name__)
    assert model.training is training
    assert_equal_states(model, plain)
    # The twin may sum in another order than torch: a few float32 roundings.
    for ours, theirs in zip(run(model, x, training), run(plain, x, training), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert gb.revert(model) is model
    assert state(model) == before
    assert_same_bits(run(model, x, training), run(plain, x, training))


def test_the_twins_are_torchs_names():
    assert {nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d} <= TWINS.keys()
    assert {nn.LayerNorm, nn.GroupNorm, nn.RMSNorm} <= TWINS.keys()
    assert nn.SyncBatchNorm not in TWINS
    for theirs, ours in TWINS.items():
        assert issubclass(ours, theirs)
        assert ours.__name__ == theirs.__name__


@pytest.mark.parametrize("cls", PLAIN)
def test_what_a_twin_adds_to_a_layer_has_a_default_in_its_class(cls):
    # A converted layer has not been through the twin's __init__. This is the contract that makes
    # a change of class enough, and lets revert know what to take away.
    make, _ = MAKERS[cls]
    plain = make()
    arguments = {"device": "cpu"}
    if cls is nn.GroupNorm:
        arguments |= {"num_groups": 3, "num_channels": 6}
    elif cls in (nn.LayerNorm, nn.RMSNorm):
        arguments |= {"normalized_shape": 6}
    else:
        arguments |= {"num_features": 6}
    fresh = TWINS[cls](**arguments)
    added = set(fresh.__dict__) - set(plain.__dict__)
    for name in added:
        assert hasattr(TWINS[cls], name), name
        if not name.startswith("_"):  # a private one may be filled in when it is first needed
            assert getattr(TWINS[cls], name) == fresh.__dict__[name], name
    assert list(fresh._buffers) == list(plain._buffers)
    assert list(fresh._parameters) == list(plain._parameters)
    gb.revert(fresh)
    assert not added & set(fresh.__dict__)


def test_a_net_and_back_is_the_same_net():
    model = net()
    plain, before = copy.deepcopy(model), state(model)
    gb.convert(model)
    assert [type(m) for m in model.modules() if type(m) in TWINS] == []
    assert sum(type(m) in TWINS.values() for m in model.modules()) == 4
    assert_equal_states(model, plain)
    once = state(model)
    assert state(gb.convert(model)) == once  # twice is once
    assert state(gb.revert(model)) == before
    for training in (True, False):
        assert_same_bits(run(model, images(), training), run(plain, images(), training))
    assert state(gb.revert(model)) == before


def test_an_optimizer_and_its_momentum_go_on():
    def trained(converts):
        model = net().train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
        for step in range(4):
            if converts and step == 2:
                gb.convert(model)
            optimizer.zero_grad()
            model(images(step)).square().mean().backward()
            optimizer.step()
        return model.state_dict()

    plain, converted = trained(False), trained(True)
    for key in plain:
        torch.testing.assert_close(converted[key], plain[key], rtol=1e-4, atol=1e-5)


def test_a_layer_in_two_places_stays_one():
    norm = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": nn.Sequential(norm), "b": norm})
    elsewhere = [norm]
    reports = []
    gb.convert(model, report=reports.append)
    assert model["a"][0] is model["b"] is elsewhere[0] is norm
    assert type(norm) is gb.BatchNorm1d
    assert [change.names for change in reports[0].changes] == [("a.0", "b")]
    lines = str(reports[0]).splitlines()
    assert lines[0] == "1 layer changed, 0 left"
    assert lines[2].split() == ["a.0", "=", "b", "nn.BatchNorm1d", "gb.BatchNorm1d"]
    assert gb.revert(model)["b"] is norm


def test_modes_gradients_dtypes_and_a_persons_own_attributes_are_kept():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).double()).train()
    model[0].eval()
    model[0].weight.requires_grad_(False)
    model[0].role = "stem"
    model[0].register_buffer("mine", torch.ones(2), persistent=False)
    model[0].own = nn.Linear(1, 1)
    gb.convert(model)
    assert [m.training for m in model] == [False, True]
    assert [p.requires_grad for p in model[0].parameters()][:2] == [False, True]
    assert model[0].role == "stem"
    assert model[1].running_var.dtype == torch.float64
    assert {"0.own.weight"} <= model.state_dict().keys()
    assert "0.mine" not in model.state_dict()


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm2d(4), nn.LayerNorm(4))
    gb.convert(model)
    gb.convert(model, to="group", groups=2, report=str)
    assert type(model[0]) is gb.GroupNorm
    assert model[0].weight.is_meta


HOOKS = {
    "forward": ("register_forward_hook", lambda log: lambda m, a, y: log.append("forward")),
    "forward_pre": ("register_forward_pre_hook", lambda log: lambda m, a: log.append("pre")),
    "backward": (
        "register_full_backward_hook",
        lambda log: lambda m, gi, go: log.append("backward"),
    ),
    "backward_pre": (
        "register_full_backward_pre_hook",
        lambda log: lambda m, go: log.append("backward pre"),
    ),
    "state_dict": (
        "register_state_dict_post_hook",
        lambda log: lambda m, s, p, meta: log.append("state"),
    ),
    "state_dict_pre": (
        "register_state_dict_pre_hook",
        lambda log: lambda m, p, keep: log.append("state pre"),
    ),
    "load": (
        "register_load_state_dict_post_hook",
        lambda log: lambda m, keys: log.append("load"),
    ),
    "load_pre": (
        "register_load_state_dict_pre_hook",
        lambda log: lambda m, *args: log.append("load pre"),
    ),
}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("to", [None, "group"])
def test_hooks_of_all_kinds_go_on_and_their_handles_take_them_off(kind, to):
    log = []
    model = nn.Sequential(nn.BatchNorm1d(4))
    register, make = HOOKS[kind]
    handle = getattr(model[0], register)(make(log))

    def use():
        model(torch.randn(6, 4, generator=generator()).requires_grad_()).sum().backward()
        model.load_state_dict(model.state_dict())

    gb.convert(model, to, report=str, **({"groups": 2} if to else {}))
    use()
    assert len(log) == 1
    gb.revert(model)
    use()
    assert len(log) == 2
    handle.remove()
    use()
    assert len(log) == 2


@pytest.mark.parametrize("to", [None, "group"])
def test_parametrizations_are_kept(to):
    model = nn.Sequential(filled(nn.BatchNorm1d(4)))
    original = model[0].weight
    parametrize.register_parametrization(model[0], "weight", Doubled())
    plain = model[0].weight.detach().clone()
    gb.convert(model, to, report=str, **({"groups": 2} if to else {}))
    ours = gb.BatchNorm1d if to is None else gb.GroupNorm
    assert isinstance(model[0], ours)
    assert parametrize.is_parametrized(model[0], "weight")
    assert torch.equal(model[0].weight, plain)
    assert model[0].parametrizations.weight.original is original
    model(torch.randn(6, 4)).sum().backward()
    copy.deepcopy(model)(torch.randn(6, 4))
    gb.revert(model)
    assert torch.equal(model[0].weight, plain)
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is (nn.BatchNorm1d if to is None else nn.GroupNorm)
    assert torch.equal(model[0].weight, plain)


@pytest.mark.parametrize("to", [None, "group"])
def test_pruning_is_kept(to):
    model = nn.Sequential(filled(nn.BatchNorm1d(4)))
    prune.l1_unstructured(model[0], "weight", amount=2)
    pruned = model[0].weight.detach().clone()
    gb.convert(model, to, report=str, **({"groups": 2} if to else {}))
    model(torch.randn(6, 4)).sum().backward()
    assert torch.equal(model[0].weight, pruned)
    assert set(dict(model[0].named_parameters())) == {"weight_orig", "bias"}
    prune.remove(model[0], "weight")
    assert torch.equal(model[0].weight, pruned)


def test_lazy_layers_of_torch_that_have_no_twin_are_left_until_they_have_seen_a_batch():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    gb.convert(model)
    model(torch.randn(4, 3))
    gb.convert(model)
    assert type(model[0]) is gb.BatchNorm1d
    assert model[0].num_features == 3


def test_subclasses_and_replaced_forwards_are_left_and_reported(caplog):
    model = nn.Sequential(ThirdParty(3), nn.BatchNorm2d(3), nn.SyncBatchNorm(3))
    model[1].forward = lambda x: x
    reports = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gb.convert(model, report=reports.append)
    assert [type(m) for m in model] == [ThirdParty, nn.BatchNorm2d, nn.SyncBatchNorm]
    assert [(one.names, one.reason) for one in reports[0].left] == [
        (("0",), "ThirdParty is a subclass with a forward of its own"),
        (("1",), "its forward was replaced on the object"),
        (("2",), "gammabeta has no SyncBatchNorm"),
    ]
    assert "0 layers changed, 3 left" in str(reports[0])
    with (
        caplog.at_level("INFO", logger="gammabeta.conversion"),
        pytest.warns(UserWarning, match="nothing of model"),
    ):
        gb.convert(model)
    assert "0 layers changed, 3 left" in caplog.text


def test_subclasses_of_gammabetas_layers_are_left_by_revert():
    class Mine(gb.BatchNorm1d):
        pass

    model = nn.Sequential(Mine(3), gb.BatchNorm1d(3))
    with pytest.warns(UserWarning, match="0 left as it is: a subclass of gammabeta's"):
        gb.revert(model)
    assert [type(m) for m in model] == [Mine, nn.BatchNorm1d]


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)), saved_and_loaded]
)
def test_copies_of_a_converted_model(how):
    model = gb.convert(net())
    twin = how(model)
    assert [type(m) for m in twin.modules()] == [type(m) for m in model.modules()]
    assert_same_bits(run(twin, images(), True), run(model, images(), True))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    assert type(gb.revert(twin)[1]) is nn.BatchNorm2d
    assert type(model[1]) is gb.BatchNorm2d


def test_a_frozen_layer_stays_frozen():
    model = gb.freeze(nn.Sequential(nn.BatchNorm1d(4)))
    gb.convert(model).train()
    assert not model[0].training
    gb.revert(model)
    gb.unfreeze(model)
    assert model[0].training
    gb.freeze(model)
    with pytest.raises(ValueError, match="layer '0' is frozen"):
        gb.convert(model, to="group", groups=2)


def test_a_model_without_norms_is_as_it_was():
    model = nn.Sequential(nn.Linear(2, 2))
    before = state(model)
    assert state(gb.convert(model)) == before


class Stubborn(nn.Module):
    """A class that no layer can become, because its objects are laid out in another way."""

    __slots__ = ("other",)


def test_nothing_is_half_converted_if_a_class_refuses(monkeypatch):
    model = net()
    before = state(model)
    monkeypatch.setitem(TWINS, nn.LayerNorm, Stubborn)
    with pytest.raises(TypeError, match="layout differs"):
        gb.convert(model)
    assert state(model) == before


def test_nothing_is_half_converted_if_it_is_interrupted():
    def changes():
        yield recast(model[1], gb.BatchNorm2d)
        yield Becoming(model[0], nn.Linear, {})
        raise KeyboardInterrupt

    model = net()
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        become(changes())
    assert state(model) == before


def test_nothing_is_converted_if_the_report_or_a_warning_raises():
    model = batch_net()
    before = state(model)
    with pytest.raises(ZeroDivisionError):
        gb.convert(model, to="group", groups=4, report=lambda report: 1 / 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            gb.convert(model, to="group", groups=4)
    assert state(model) == before


# Whole architectures


def test_a_transformer():
    def make():
        return filled(nn.Transformer(8, 2, 1, 1, 16, dropout=0.0, batch_first=True)).eval()

    model, plain = make(), make()
    before = state(model)
    source, target = torch.randn(2, 3, 8), torch.randn(2, 4, 8)
    gb.convert(model)
    assert sum(type(m) is gb.LayerNorm for m in model.modules()) == 7
    for grad in (True, False):  # without gradients torch's encoder takes its fused path
        with torch.set_grad_enabled(grad):
            torch.testing.assert_close(
                model(source, target), plain(source, target), rtol=1e-4, atol=1e-5
            )
    assert state(gb.revert(model)) == before
    assert torch.equal(model(source, target), plain(source, target))


@pytest.mark.parametrize("padding", [True, False])
def test_a_transformer_of_rms_norms_does_not_take_the_path_that_knows_layer_norm_only(padding):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    model = filled(nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(8))).eval()
    weights = [p for m in model.modules() if isinstance(m, nn.LayerNorm) for p in [m.weight]]
    reports = []
    gb.convert(model, to="rms", report=reports.append)
    rms = [m for m in model.modules() if isinstance(m, gb.RMSNorm)]
    assert [a is m.weight for a, m in zip(weights, rms, strict=True)] == [True] * 5
    assert reports[0].lost == {"β": 5}
    x = torch.randn(2, 3, 8, generator=generator())
    mask = torch.tensor([[False, False, False], [False, False, True]]) if padding else None
    slow = model(x, src_key_padding_mask=mask)
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=mask)
    real = ~mask if padding else torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(fast[real], slow[real])
    assert any("fast path" in note for change in reports[0].changes for note in change.notes)


@pytest.fixture
def one_thread():
    # Many small operators: threads that wait for each other on a busy machine take longer than one.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["bninception", "resnet18", "densenet121", "mobilenet_wd4"])
def test_architectures_of_pytorchcv(name):
    provider = pytest.importorskip("pytorchcv.model_provider")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = provider.get_model(name, pretrained=False).eval()
    x = torch.randn(1, 3, 224, 224, generator=generator())
    before, plain = state(model), copy.deepcopy(model.state_dict())
    norms = sum(type(m) is nn.BatchNorm2d for m in model.modules())
    with torch.no_grad():
        expected = model(x)
        gb.convert(model)
        assert sum(type(m) is gb.BatchNorm2d for m in model.modules()) == norms >= 20
        actual = model(x)
        # Up to 121 layers of float32 in another order of summation.
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3 * expected.abs().max())
        gb.revert(model)
        assert torch.equal(model(x), expected)
    assert state(model) == before
    assert all(torch.equal(plain[key], value) for key, value in model.state_dict().items())
    gb.convert(model, to="group", exact=False, report=str)
    assert sum(type(m) is gb.GroupNorm for m in model.modules()) == norms


# Fused activations


def test_a_fused_layer_is_an_error_that_names_it_and_changes_nothing():
    model = nn.Sequential(gb.BatchNorm1d(3), gb.LayerNorm(3, activation="gelu"))
    before = state(model)
    with pytest.raises(ValueError, match=r"layer '1' has activation='gelu'.*fused='split'"):
        gb.revert(model)
    assert state(model) == before
    with pytest.raises(ValueError, match="did you mean 'split'"):
        gb.revert(model, fused="splt")


ACTIVATIONS = ["relu", "leaky_relu", "silu", "gelu", "sigmoid", "tanh", "relu6", "hardswish"]
ACTIVATIONS += ["hardsigmoid", "mish", "gelu_tanh"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_fused_layer_can_be_split(activation):
    model = nn.Sequential(filled(gb.BatchNorm1d(3, activation=activation)))
    x = torch.randn(8, 3, generator=generator())
    log = []
    layer, parameters = model[0], list(model.parameters())
    layer.register_forward_hook(lambda m, a, y: log.append(y))
    expected = copy.deepcopy(model)(x)
    log.clear()
    reports = []
    gb.revert(model, fused="split", report=reports.append)
    assert type(layer) is nn.Sequential
    assert model[0] is layer
    assert type(layer[0]) is nn.BatchNorm1d
    assert [a is b for a, b in zip(model.parameters(), parameters, strict=True)] == [True, True]
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(log[0], expected)  # the hook sees what it saw before
    assert "0.0.running_mean" in model.state_dict()
    assert reports[0].changes[0].after.startswith("nn.Sequential(nn.BatchNorm1d, nn.")
    model.eval()
    assert not layer[0].training
    assert copy.deepcopy(model)[0][0].num_features == 3


def test_a_fused_layer_that_cannot_be_split():
    frozen = gb.freeze(nn.Sequential(gb.BatchNorm1d(3, activation="relu")))
    with pytest.raises(ValueError, match="is frozen, so it cannot be split"):
        gb.revert(frozen, fused="split")
    pruned = nn.Sequential(gb.BatchNorm1d(3, activation="relu"))
    prune.random_unstructured(pruned[0], "weight", amount=1)
    with pytest.raises(ValueError, match="cannot be split; make them plain"):
        gb.revert(pruned, fused="split")


def test_a_layer_compiled_by_itself_goes_on_when_split():
    torch._dynamo.reset()
    model = nn.Sequential(gb.BatchNorm1d(4, activation="relu")).eval()
    x = torch.randn(8, 4)
    expected = model(x)
    model[0].compile(backend="eager")
    torch.testing.assert_close(gb.revert(model, fused="split")(x), expected)
    assert model[0]._compiled_call_impl is not None
    assert model[0][0]._compiled_call_impl is None


def test_revert_names_the_recurrent_layers_it_leaves():
    model = nn.ModuleDict(
        {"batch": gb.RecurrentBatchNormLSTM(3, 4, max_length=2), "layer": gb.LayerNormLSTM(3, 4)}
    )
    reports = []
    gb.revert(model, report=reports.append)
    assert [(left.names, left.kind) for left in reports[0].left] == [
        (("batch",), "gb.RecurrentBatchNormLSTM"),
        (("layer",), "gb.LayerNormLSTM"),
    ]
    assert model["layer"](torch.randn(5, 2, 3))[0].shape == (5, 2, 4)


def test_split_layers_survive_torchs_surgery_which_knows_no_activation():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), gb.BatchNorm2d(4, activation="relu")).eval()
    x = torch.randn(2, 3, 5, 5)
    expected = model(x)
    assert expected.min() == 0
    gb.revert(model, fused="split")
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    torch.testing.assert_close(synchronized(x), expected)
    fused = nn.utils.fusion.fuse_conv_bn_eval(model[0], model[1][0])
    torch.testing.assert_close(model[1][1](fused(x)), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(4), (2, 4, 3, 3)),
        (nn.InstanceNorm1d(4), (2, 4, 3)),
        (nn.GroupNorm(2, 4), (2, 4, 3)),
        (nn.LayerNorm(3), (2, 4, 3)),
        (nn.RMSNorm(3), (2, 4, 3)),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")
def test_a_converted_layer_can_be_scripted(layer, shape):
    x = torch.randn(shape)
    model = gb.convert(nn.Sequential(layer)).eval()
    torch.testing.assert_close(torch.jit.script(model)(x), model(x))
    assert "activation" not in gb.revert(model)[0].__dict__
