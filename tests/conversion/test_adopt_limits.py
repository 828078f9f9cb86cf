"""An adopted norm computes by its own code wherever the proof does not reach."""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode

import gammabeta as gb
from gammabeta import ops
from gammabeta.conversion.adopt import is_adopted
from gammabeta.conversion.adopting import adopted, worth
from gammabeta.conversion.adopting.recipe import Recipe
from gammabeta.ops.cpu import support
from tests.conversion import their_norms as theirs


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "SMALL", {})
    monkeypatch.setattr(adopted, "_KNOWN", {})  # what was proved, with the sizes it is for
    monkeypatch.setattr(worth, "_LEAST", dict.fromkeys(worth._LEAST, (0, 0, 0, 0)))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The kernel calls that adopted modules make, proofs included."""
    found: list[Any] = []
    run = Recipe.run

    def counted(self: Recipe, call: Any, x: Tensor) -> Tensor | None:
        y = run(self, call, x)
        if y is not None:
            found.append(call)
        return y

    monkeypatch.setattr(Recipe, "run", counted)
    return found


def filled(module: nn.Module) -> Any:
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))
    return module


def pair(make: Any) -> tuple[Any, Any]:
    module = filled(make())
    converted = gb.convert(copy.deepcopy(module), fuse=False)
    assert is_adopted(converted)
    return module, converted


def images() -> Tensor:
    return torch.randn(4, 6, 5, 7, generator=torch.Generator().manual_seed(1))


def rows() -> Tensor:
    return torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))


def close(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


# What changes on the module


def test_a_changed_setting_counts(calls: list[Any]) -> None:
    module, converted = pair(lambda: theirs.RMSNorm(6))
    for one in (module, converted):
        one.variance_epsilon = 0.01
    x = rows()
    close(converted(x), module(x))
    calls.clear()
    close(converted(x), module(x))
    assert [call.eps for call in calls] == [0.01]  # proved again


def test_settings_that_always_change_are_not_proved_for_ever(
    monkeypatch: pytest.MonkeyPatch, calls: list[Any]
) -> None:
    monkeypatch.setattr(adopted, "_MOST", 2)
    module, converted = pair(lambda: type("Mine", (theirs.RMSNorm,), {})(6))
    calls.clear()
    for number in range(2, 9):
        module.variance_epsilon = converted.variance_epsilon = number * 1e-3
        close(converted(rows()), module(rows()))
    assert len(calls) == 2


def test_another_activation_counts() -> None:
    module, converted = pair(lambda: theirs.BatchNormAct2d(6))
    for one in (module, converted):
        one.act = nn.Softplus()
    close(converted(images()), module(images()))
    for one in (module, converted):
        one.act = nn.LeakyReLU(0.3)
    close(converted(images()), module(images()))
    for one in (module, converted):
        one.act.negative_slope = 0.9
    close(converted(images()), module(images()))
    for one in (module, converted):
        one.drop = nn.Dropout(0.5)
    torch.manual_seed(0)
    want = module(images())
    torch.manual_seed(0)
    close(converted(images()), want)


def test_a_setting_of_its_activation_counts() -> None:
    module, converted = pair(lambda: theirs.BatchNormAct2d(6, nn.GELU, inplace=False))
    for one in (module, converted):
        one.act.approximate = "tanh"
    x = images()
    want = module(x)
    close(converted(x), want)
    exact = nn.functional.gelu(
        nn.functional.batch_norm(x, None, None, module.weight, module.bias, True)
    )
    assert (exact - want).abs().max().item() > 1e-4  # far from the other formula


def test_momentum_is_read_at_each_call(calls: list[Any]) -> None:
    module, converted = pair(lambda: theirs.BatchNormAct2d(6))
    for momentum in (0.5, None, 0.01):
        module.momentum = converted.momentum = momentum
        calls.clear()
        close(converted(images()), module(images()))
        close(converted.running_mean, module.running_mean)
        close(converted.running_var, module.running_var)
        assert len(calls) == 1


def test_hooks_on_its_parts_are_called(calls: list[Any]) -> None:
    _, converted = pair(lambda: theirs.BatchNormAct2d(6))
    seen: list[Any] = []
    calls.clear()
    handle = converted.act.register_forward_hook(lambda module, args, y: seen.append(y))
    converted(images())
    handle.remove()
    assert len(seen) == 1
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, args, y: seen.append(type(module))
    )
    converted(images())
    handle.remove()
    assert seen[1:] == [nn.Identity, nn.ReLU, type(converted)]
    assert not calls
    converted(images())
    assert len(calls) == 1


def test_a_forward_on_the_object_and_on_the_class(monkeypatch: pytest.MonkeyPatch) -> None:
    _, converted = pair(lambda: theirs.RMSNorm(6))
    monkeypatch.setattr(theirs.RMSNorm, "forward", lambda self, x: x + 7)
    close(converted(rows()), rows() + 7)
    assert gb.convert(theirs.LayerNormByHand(6)) is not None
    converted.forward = lambda x: x + 9
    close(converted(rows()), rows() + 9)


def test_a_switch_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module, converted = pair(lambda: theirs.SwitchedRMSNorm(6))
    monkeypatch.setattr(theirs, "_FAST", True)
    close(converted(rows()), module.weight * rows())
    monkeypatch.setattr(theirs, "_FAST", False)
    close(converted(rows()), module(rows()))


def test_a_function_of_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    module, converted = pair(lambda: theirs.RMSNormByFunction(6))
    monkeypatch.setattr(theirs, "rms_norm", lambda x, weight, eps: x + weight)
    close(converted(rows()), rows() + module.weight)


def test_parametrized_and_pruned(calls: list[Any]) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    module, converted = pair(lambda: theirs.RMSNorm(6))
    calls.clear()
    for one in (module, converted):
        parametrize.register_parametrization(one, "weight", Doubled())
    close(converted(rows()), module(rows()))
    reports: list[Any] = []
    gb.revert(converted, report=reports.append)
    assert [left.reason for left in reports[0].left] == [
        "is of a class made from that of an adopted module"
    ]
    for one in (module, converted):
        parametrize.remove_parametrizations(one, "weight")
        prune.random_unstructured(one, "weight", 0.5)
    converted.weight_mask.copy_(module.weight_mask)
    close(converted(rows()), module(rows()))
    assert not calls
    for one in (module, converted):
        prune.remove(one, "weight")
    close(converted(rows()), module(rows()))
    assert len(calls) == 1
    assert type(gb.revert(converted)) is theirs.RMSNorm

    parametrized = theirs.RMSNorm(6)
    parametrize.register_parametrization(parametrized, "weight", Doubled())
    gb.convert(parametrized, report=reports.append)
    assert not is_adopted(parametrized)


def test_a_weight_taken_away() -> None:
    module, converted = pair(lambda: theirs.LayerNorm2d(6))
    for one in (module, converted):
        one.bias = None
    close(converted(images()), module(images()))
    for one in (module, converted):
        one.weight = nn.Parameter(torch.full((6,), 3.0))
    close(converted(images()), module(images()))


def test_a_weight_given_later() -> None:
    module, converted = pair(lambda: theirs.BatchNormAct2d(6, affine=False))
    for one in (module, converted):
        one.weight = nn.Parameter(torch.full((6,), 3.0))
        one.bias = nn.Parameter(torch.full((6,), 0.5))
    close(converted(images()), module(images()))


# What the call is like


def test_arguments_by_keyword_and_too_many() -> None:
    module, converted = pair(lambda: theirs.RMSNorm(6))
    close(converted(hidden_states=rows()), module(rows()))
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        converted(rows(), rows())


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 4, 6), (2, 2, 3, 4, 6), (0, 6), (1, 1, 6)])
def test_any_number_of_dims(shape: tuple[int, ...]) -> None:
    module, converted = pair(lambda: theirs.RMSNorm(6))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    close(converted(x), module(x))


@pytest.mark.parametrize("make", [theirs.RMSNorm, theirs.LayerNormByHand, theirs.Renamed])
def test_any_memory_layout(make: Any) -> None:
    module, converted = pair(lambda: make(6))
    for x in (
        rows().transpose(0, 1),
        torch.randn(4, 5, 12, generator=torch.Generator().manual_seed(1))[..., ::2],
        torch.randn(1, 5, 6, generator=torch.Generator().manual_seed(1)).expand(4, 5, 6),
    ):
        want = module(x)
        close(converted(x), want)
        assert converted(x).stride() == want.stride()


def test_errors_are_its_own() -> None:
    _, converted = pair(lambda: theirs.BatchNormAct2d(6))
    with pytest.raises(ValueError, match=r"expected 4D input \(got 3D input\)"):
        converted(torch.zeros(2, 6, 4))
    with pytest.raises(RuntimeError, match="running_mean"):
        converted(torch.zeros(2, 5, 4, 4))


@pytest.mark.parametrize(
    "make", [lambda: theirs.RMSNorm(6), lambda: theirs.OffsetRMSNorm(6)], ids=["llama", "gemma"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("cast", [False, True])
def test_mixed_dtypes(make: Any, dtype: torch.dtype, parameters: torch.dtype, cast: bool) -> None:
    module, converted = (one.to(parameters) for one in pair(make))
    x = rows().to(dtype)
    with torch.autocast("cpu", torch.bfloat16, enabled=cast):
        want, got = module(x), converted(x)
    assert got.dtype is want.dtype
    ulp = torch.finfo(want.dtype).eps if want.dtype.itemsize == 2 else 1e-6
    torch.testing.assert_close(got, want, rtol=2 * ulp, atol=2 * ulp)


def test_statistics_under_autocast(calls: list[Any]) -> None:
    module, converted = pair(lambda: theirs.BatchNormAct2d(6))
    calls.clear()
    with torch.autocast("cpu", torch.bfloat16):
        want, got = module(images().bfloat16()), converted(images().bfloat16())
    assert got.dtype is want.dtype is torch.bfloat16
    torch.testing.assert_close(got, want, rtol=0.016, atol=0.016)
    close(converted.running_mean, module.running_mean)
    assert len(calls) == 1


# Who has to see torch's operators


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: theirs.RMSNorm(6), rows()),
        (lambda: theirs.BatchNormAct2d(6), images()),
        (lambda: theirs.LayerNorm2dByHand(6), images()),
    ],
    ids=["rms", "batch", "layer"],
)
class TestOfGraphs:
    def test_compile(self, make: Any, x: Tensor, calls: list[Any]) -> None:
        module, converted = pair(make)
        calls.clear()
        torch._dynamo.reset()
        compiled = torch.compile(converted, backend="eager", fullgraph=True)
        close(compiled(x), module(x))
        assert not calls

    def test_export(self, make: Any, x: Tensor) -> None:
        module, converted = pair(make)
        module.eval(), converted.eval()
        exported = torch.export.export(converted, (x,))
        targets = {str(node.target) for node in exported.graph.nodes}
        assert not [target for target in targets if "gammabeta" in target]
        close(exported.module()(x), module(x))

    def test_trace(self, make: Any, x: Tensor) -> None:
        module, converted = pair(make)
        module.eval(), converted.eval()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            traced = torch.jit.trace(converted, x)
        assert "PythonOp" not in str(traced.inlined_graph)
        close(traced(x + 1), module(x + 1))

    def test_fx(self, make: Any, x: Tensor) -> None:
        if make().__class__ is theirs.BatchNormAct2d:
            pytest.skip("its own code asks for the number of dims")
        module, converted = pair(make)
        traced = torch.fx.symbolic_trace(converted)
        close(traced(x), module(x))

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
    def test_transforms(self, make: Any, x: Tensor) -> None:
        module, converted = pair(make)
        module.eval(), converted.eval()
        got, want = (
            torch.func.grad(lambda x, one=one: one(x).square().sum())(x)
            for one in (converted, module)
        )
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
        many = torch.stack([x, x + 1])
        close(torch.func.vmap(converted)(many), torch.func.vmap(module)(many))
        parameters = {name: 2 * p for name, p in module.named_parameters()}
        close(
            torch.func.functional_call(converted, parameters, (x,)),
            torch.func.functional_call(module, parameters, (x,)),
        )
        _, tangent = torch.func.jvp(converted, (x,), (torch.ones_like(x),))
        close(tangent, torch.func.jvp(module, (x,), (torch.ones_like(x),))[1])

    def test_modes(self, make: Any, x: Tensor, calls: list[Any]) -> None:
        class Mode(TorchFunctionMode):
            def __torch_function__(
                self, function: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                return function(*args, **(kwargs or {}))

        _, converted = pair(make)
        calls.clear()
        with Mode():
            converted(x)
        assert not calls
        with torch.device("cpu"):  # is a mode, too, and looks at nothing
            converted(x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x)
        assert len(calls) == 1

    def test_meta_and_subclasses(self, make: Any, x: Tensor, calls: list[Any]) -> None:
        class Mine(Tensor):
            pass

        module, converted = pair(make)
        calls.clear()
        close(converted(x.as_subclass(Mine)).as_subclass(Tensor), module(x))
        assert not calls
        assert converted.to("meta")(x.to("meta")).shape == x.shape

    def test_inference_mode_and_checkpoint(self, make: Any, x: Tensor) -> None:
        module, converted = pair(make)
        module.eval(), converted.eval()
        with torch.inference_mode():
            close(converted(x), module(x))
        x = x.clone().requires_grad_()
        y = torch.utils.checkpoint.checkpoint(converted, x, use_reentrant=False)
        (got,) = torch.autograd.grad(y.square().sum(), x)
        (want,) = torch.autograd.grad(module(x).square().sum(), x)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_script() -> None:
    module, converted = pair(lambda: theirs.LayerNormByHand(6))
    scripted = torch.jit.script(converted)
    close(scripted(rows()), module(rows()))


def test_without_kernels(calls: list[Any]) -> None:
    module, converted = pair(lambda: theirs.RMSNorm(6))
    calls.clear()
    with ops.use("torch"):
        close(converted(rows()), module(rows()))
        reports: list[Any] = []
        gb.convert(copy.deepcopy(module), report=reports.append)
    assert not calls
    assert "native kernels are not in use" in reports[0].left[0].reason


# Classes that are not adopted


def test_what_may_change_unnoticed_is_left() -> None:
    class Configured(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.options = nn.Parameter(torch.ones(6)), {"eps": 1e-6}

        def forward(self, x: Tensor) -> Tensor:
            eps = self.options["eps"]
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))

    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.half = nn.Parameter(torch.ones(6)), 5e-7

        @property
        def epsilon(self) -> float:
            return 2 * self.half

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon))

    class OwnPickling(theirs.RMSNorm):
        def __deepcopy__(self, memo: Any) -> Any:
            return OwnPickling(6)

    class OwnPart(theirs.BatchNormAct2d):
        def __init__(self) -> None:
            super().__init__(6)
            self.act = nn.Sequential(nn.ReLU())

    reasons: dict[str, str] = {}
    model = nn.Sequential(Configured(), Computed(), OwnPickling(6), OwnPart(), gb.BatchNorm1d(2))
    gb.convert(
        model, report=lambda its: reasons.update({one.names[0]: one.reason for one in its.left})
    )
    assert not any(map(is_adopted, model))
    assert "its attribute options, a dict, may change unnoticed" in reasons["0"]
    assert "its code reads epsilon, which is computed" in reasons["1"]
    assert "OwnPickling is copied in a way of its own" in reasons["2"]
    assert "its part act, a Sequential, may do anything" in reasons["3"]


def test_a_subclass_of_gammabetas_is_left() -> None:
    class Mine(gb.BatchNorm2d):
        def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
            return F.relu(super().forward(x, residual))

    model = nn.Sequential(Mine(4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gb.convert(model)
    assert type(model[0]) is Mine
