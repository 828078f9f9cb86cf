"""Norms of other people's classes are converted where they compute what gammabeta computes."""

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.adopt import is_adopted
from gammabeta.conversion.adopting import adopted, worth
from gammabeta.layers.traits import affine, traits
from gammabeta.ops.cpu import support
from tests.conversion import their_norms as theirs

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "batch, relu": (lambda: theirs.BatchNormAct2d(6), (4, 6, 5, 7)),
    "batch, silu": (lambda: theirs.BatchNormAct2d(6, nn.SiLU, eps=1e-3), (4, 6, 5, 7)),
    "batch, gelu": (lambda: theirs.BatchNormAct2d(6, nn.GELU, inplace=False), (4, 6, 5, 7)),
    "batch alone": (lambda: theirs.BatchNormAct2d(6, None, inplace=False), (4, 6, 5, 7)),
    "batch, cumulative": (lambda: theirs.BatchNormAct2d(6, momentum=None), (4, 6, 5, 7)),
    "batch, untracked": (
        lambda: theirs.BatchNormAct2d(6, track_running_stats=False),
        (4, 6, 5, 7),
    ),
    "batch, no affine": (lambda: theirs.BatchNormAct2d(6, affine=False), (4, 6, 5, 7)),
    "batch, checked": (lambda: theirs.PlainBatchNorm2d(6), (4, 6, 5, 7)),
    "group, relu": (lambda: theirs.GroupNormAct(6), (4, 6, 5, 7)),
    "layer, channels": (lambda: theirs.LayerNorm2d(6), (4, 6, 5, 7)),
    "layer, channels by hand": (lambda: theirs.LayerNorm2dByHand(6), (4, 6, 5, 7)),
    "layer by hand": (lambda: theirs.LayerNormByHand(6), (4, 5, 6)),
    "layer renamed": (lambda: theirs.Renamed((5, 6)), (4, 5, 6)),
    "layer, channels by hand, of four dims": (lambda: theirs.LayerNormOfFourDims(6), (4, 6, 5, 7)),
    "frozen, of four dims": (lambda: theirs.FrozenOfFourDims(6), (4, 6, 5, 7)),
    "frozen": (lambda: theirs.FrozenBatchNorm2d(6), (4, 6, 5, 7)),
    "rms": (lambda: theirs.RMSNorm(6), (4, 5, 6)),
    "rms, other eps": (lambda: theirs.RMSNorm(6, 1e-3), (4, 3, 5, 6)),
    "rms, 1 + weight": (lambda: theirs.OffsetRMSNorm(6), (4, 5, 6)),
}
each = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs, too, are for the kernels."""
    monkeypatch.setattr(support, "SMALL", {})
    monkeypatch.setattr(adopted, "_KNOWN", {})  # what was proved, with the sizes it is for
    monkeypatch.setattr(worth, "_LEAST", dict.fromkeys(worth._LEAST, (0, 0, 0, 0)))


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The calls that adopted modules make."""
    from gammabeta.conversion.adopting.recipe import Recipe

    calls: list[Any] = []
    run = Recipe.run

    def counted(self: Recipe, call: Any, x: Tensor) -> Tensor | None:
        y = run(self, call, x)
        if y is not None:
            calls.append(call)
        return y

    monkeypatch.setattr(Recipe, "run", counted)
    return calls


def filled(module: nn.Module) -> Any:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))
    return module


def made(case: str) -> tuple[Any, Any, Tensor]:
    """A module, its converted copy and an input."""
    make, shape = CASES[case]
    module = filled(make())
    converted = copy.deepcopy(module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert gb.convert(converted, fuse=False) is converted
    assert is_adopted(converted)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 1
    if "channels by hand" in case:  # faster there only, and its output is laid out as x
        x = x.contiguous(memory_format=torch.channels_last)
    return module, converted, x


def outcome(module: Any, x: Tensor) -> dict[str, Tensor]:
    """Output, gradients and state after one call and one in evaluation."""
    x = x.clone().requires_grad_()
    y = module.train()(x)
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).to(y.dtype)
    parameters = dict(module.named_parameters())
    found = torch.autograd.grad(y, (x, *parameters.values()), g)
    names = ("x", *parameters)
    with torch.no_grad():
        evaluated = module.eval()(x)
    module.train()
    return {
        "y": y.detach(),
        "evaluated": evaluated,
        **{f"gradient of {name}": t for name, t in zip(names, found, strict=True)},
        **{name: buffer.clone() for name, buffer in module.named_buffers()},
    }


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_computes_the_same(case: str, dtype: torch.dtype, kernel_calls: list[Any]) -> None:
    module, converted, x = made(case)
    module, converted, x = module.to(dtype), converted.to(dtype), x.to(dtype)
    kernel_calls.clear()  # of the proof
    want, got = outcome(module, x), outcome(converted, x)
    assert want.keys() == got.keys()
    # Some hundred values in a sum, each rounded: 1e-6 of the largest, 1e-14 in float64.
    close = 1e-5 if dtype is torch.float32 else 1e-12
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=close, atol=close, msg=name)
        if name in ("y", "evaluated"):
            assert got[name].stride() == want[name].stride()
    casts = "rms" in case and dtype is torch.float64  # to float32: its own code's to compute
    assert len(kernel_calls) == (0 if casts else 2)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_the_same_to_the_last_digit(
    case: str, dtype: torch.dtype, kernel_calls: list[Any]
) -> None:
    module, converted, x = made(case)
    module, converted, x = module.to(dtype), converted.to(dtype), x.to(dtype)
    kernel_calls.clear()  # of the proof
    with torch.no_grad():
        want, got = module(x), converted(x)
    assert got.dtype is want.dtype
    # Rounded once, not after each of several steps: each off by at most one digit, and values
    # that are small by cancellation by one digit of what cancelled, here at most 4.
    ulp = torch.finfo(dtype).eps
    off = (got.double() - want.double()).abs()
    assert bool((off <= 2 * ulp * want.double().abs() + 2 * ulp).all())
    # Squares in float16 overflow at 256: that is another function of the input.
    assert bool(kernel_calls) is not ("layer" in case and "hand" in case and dtype is torch.float16)


@each
def test_the_same_object_with_all_that_it_had(case: str) -> None:
    module = filled(CASES[case][0]())
    seen: list[Any] = []
    module.register_forward_hook(lambda module, args, y: seen.append(type(module)))
    module.mine = "an attribute"
    before, cls, text = dict(module.__dict__), type(module), repr(module)
    attributes = module.__dict__
    state = {name: t.clone() for name, t in module.state_dict().items()}
    gb.convert(module, fuse=False)
    assert type(module) is not cls
    assert isinstance(module, cls)
    assert module.__dict__ is attributes
    assert module.__dict__ == before
    assert repr(module) == text
    assert type(module).__name__ == cls.__name__
    assert type(module).__module__.startswith("gammabeta.")  # who made it
    assert list(module.state_dict()) == list(state)
    module(torch.randn(CASES[case][1]))
    assert seen
    fresh = CASES[case][0]()
    fresh.load_state_dict(module.state_dict())  # both ways
    module.load_state_dict(state)

    gb.revert(module)
    assert type(module) is cls
    assert module.__dict__ is attributes
    assert module.__dict__.keys() == before.keys()
    assert repr(module) == text


@each
def test_it_is_copied_and_pickled(case: str, kernel_calls: list[Any]) -> None:
    module, converted, x = made(case)
    want = module.eval()(x)
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    for other in (
        copy.deepcopy(converted),
        copy.copy(converted),
        pickle.loads(pickle.dumps(converted)),
        torch.load(file, weights_only=False),
    ):
        assert type(other) is type(converted)
        kernel_calls.clear()
        torch.testing.assert_close(other.eval()(x), want, rtol=1e-5, atol=1e-5)
        assert kernel_calls
        assert type(gb.revert(other)) is type(module)


def test_it_is_proved_again_in_another_process(kernel_calls: list[Any]) -> None:
    module, converted, x = made("rms")
    text = pickle.dumps(converted)
    kept = adopted._KNOWN.pop(theirs.RMSNorm)
    try:
        other = pickle.loads(text)
        known = adopted.adopted(type(other))
        assert known is not None
        assert known is not kept
        assert not known.adoptions
        torch.testing.assert_close(other(x), module(x))
        assert len(known.adoptions) == 1
        assert len(kernel_calls) == 1
    finally:
        adopted._KNOWN[theirs.RMSNorm] = kept


def test_convert_twice_and_the_report() -> None:
    model = nn.Sequential(theirs.RMSNorm(6), nn.LayerNorm(6))
    reports: list[Any] = []
    gb.convert(model, report=reports.append)
    assert [(c.names, c.before, c.after) for c in reports[0].changes] == [
        (("0",), "RMSNorm", "RMSNorm, adopted"),
        (("1",), "nn.LayerNorm", "gb.LayerNorm"),
    ]
    cls = type(model[0])
    gb.convert(model, report=reports.append)
    assert not reports[1].changes
    assert not reports[1].left
    assert type(model[0]) is cls
    gb.revert(model, report=reports.append)
    assert [(c.names, c.before, c.after) for c in reports[2].changes] == [
        (("0",), "RMSNorm, adopted", "RMSNorm"),
        (("1",), "gb.LayerNorm", "nn.LayerNorm"),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gb.convert(gb.convert(nn.Sequential(theirs.RMSNorm(6))))


@pytest.mark.parametrize(
    ("case", "family", "activation"),
    [
        ("batch, relu", "batch", "relu"),
        ("group, relu", "group", "relu"),
        ("layer, channels", "layer", None),
        ("frozen", "frozen", None),
        ("rms, 1 + weight", "rms", None),
    ],
)
def test_its_traits_are_those_it_had(case: str, family: str, activation: str | None) -> None:
    module, converted, _ = made(case)
    assert traits(converted) == traits(module)
    assert traits(converted).family == family
    assert traits(converted).activation == activation
    for mine, its in zip(affine(converted), affine(module), strict=True):
        torch.testing.assert_close(mine, its)


def test_one_class_for_all_modules_of_a_class() -> None:
    model = nn.Sequential(theirs.RMSNorm(6), theirs.RMSNorm(8), theirs.RMSNorm(6, 1e-3))
    gb.convert(model)
    assert len({type(module) for module in model}) == 1
    assert type(model[0]) is type(gb.convert(theirs.RMSNorm(4)))


def test_what_is_not_equal_is_left() -> None:
    model = nn.Sequential(theirs.ScaledLayerNorm(6), theirs.ClampedRMSNorm(6), nn.LayerNorm(6))
    reports: list[Any] = []
    gb.convert(model, report=reports.append)
    assert [type(module) for module in model] == [
        theirs.ScaledLayerNorm,
        theirs.ClampedRMSNorm,
        gb.LayerNorm,
    ]
    reasons = {left.names[0]: left.reason for left in reports[0].left}
    assert reasons["0"] == "ScaledLayerNorm is a subclass with a forward of its own"
    assert "the kernels do not compute the same" in reasons["1"]


def test_what_is_equal_in_one_mode_is_converted_for_that(kernel_calls: list[Any]) -> None:
    module = filled(theirs.ForgetfulBatchNormAct2d(6))
    converted = gb.convert(copy.deepcopy(module))
    x = torch.randn(4, 6, 5, 7)
    kernel_calls.clear()  # of the proof
    want, got = outcome(module, x), outcome(converted, x)
    for name in want:
        torch.testing.assert_close(got[name], want[name], rtol=1e-5, atol=1e-5, msg=name)
    assert [call.training for call in kernel_calls] == [False]


def test_nothing_is_drawn_and_nothing_changes_while_it_is_tried() -> None:
    class Fresh(theirs.BatchNormAct2d):
        pass

    module = filled(Fresh(6))
    state = {name: t.clone() for name, t in module.state_dict().items()}
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    gb.convert(module)
    assert torch.equal(torch.rand(3), want)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name])


@pytest.mark.parametrize("case", ["batch, relu", "group, relu", "rms"])
def test_second_derivatives(case: str) -> None:
    module, converted, x = made(case)
    found = []
    for one in (module, converted):
        one.eval()
        its = x.clone().requires_grad_()
        (g,) = torch.autograd.grad(one(its).square().sum(), its, create_graph=True)
        found.append(torch.autograd.grad(g.square().sum(), its)[0])
    # A product of two sums of some hundred terms: 1e-4 of the largest.
    torch.testing.assert_close(
        found[1], found[0], rtol=1e-4, atol=1e-4 * float(found[0].abs().max())
    )
