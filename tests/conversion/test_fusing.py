"""`convert` fuses norms with what follows them: same results, and only where it is safe."""

from __future__ import annotations

import copy
import io
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.conversion.report import Conversion
from gammabeta.layers.deferred import Deferred, computed
from gammabeta.ops.activations import ACTIVATIONS

SHAPE = (4, 16, 32, 32)  # large enough for the kernels
Body = Callable[[nn.Module, Tensor], Tensor]


class Net(nn.Module):
    """conv → norm → whatever a test writes → a sum of squares."""

    def __init__(self, body: Body, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16) if norm is None else norm
        self.other = nn.BatchNorm2d(16)
        self.skip = nn.Conv2d(16, 16, 1)
        self.relu = nn.ReLU(inplace=True)
        self.prelu, self.prelus = nn.PReLU(), nn.PReLU(16)
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self, x)


def n(net: Any, x: Tensor) -> Tensor:
    y: Tensor = net.norm(net.conv(x))
    return y


def bodies() -> dict[str, Body]:
    """Ways to use a norm's output; those that fuse, and those that must not."""

    def kept(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        return F.relu(y) + 2 * y

    def overwritten(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        z = y
        F.relu(y, inplace=True)
        return y + z

    def downsampled(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        x = net.other(net.skip(x))
        y += x
        return net.relu(y)

    def twice(net: Any, x: Tensor) -> Tensor:
        return net.relu(net.norm(net.relu(net.norm(net.conv(x)))))

    def input_changed(net: Any, x: Tensor) -> Tensor:
        z = net.conv(x)
        y = net.norm(z)
        return F.relu(y) + z.detach()

    def adds_itself(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        return F.relu(y + y)

    def into_the_other(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        z = net.skip(x)
        z += y
        return F.relu(z)

    def broadcast(net: Any, x: Tensor) -> Tensor:
        return F.relu(n(net, x) + x.mean((2, 3), keepdim=True))

    def other_dtype(net: Any, x: Tensor) -> Tensor:
        return F.relu(n(net, x) + x.double())

    def asked(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        size = y.shape[0] * y.size(1) * y.dim()
        return F.relu(y) * size

    def graph_asked(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        assert y.requires_grad == torch.is_grad_enabled()
        assert (y.grad_fn is not None) == torch.is_grad_enabled()
        return F.relu(y)

    def swish(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        return y * torch.sigmoid(y)

    def gate_kept(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        gate = torch.sigmoid(y)
        return y * gate + gate

    def without_gradients(net: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = n(net, x)
        return F.relu(y) + net.skip(x)

    def catted(net: Any, x: Tensor) -> Tensor:
        return torch.cat([n(net, x), x], 1)

    def buffers_read(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        return F.relu(y) + net.norm.running_mean.sum() * 0 + net.norm.num_batches_tracked * 0

    def checkpointed(net: Any, x: Tensor) -> Tensor:
        return checkpoint(lambda x: F.relu(n(net, x)), x, use_reentrant=False)

    def checkpointed_reentrant(net: Any, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.relu(n(net, x))
        return checkpoint(lambda x: F.relu(n(net, x)), x, use_reentrant=True)

    return {
        "relu": lambda net, x: F.relu(n(net, x)),
        "relu module in place": lambda net, x: net.relu(n(net, x)),
        "relu_": lambda net, x: torch.relu_(n(net, x)),
        "method": lambda net, x: n(net, x).relu_(),
        "leaky relu": lambda net, x: F.leaky_relu(n(net, x), 0.2, inplace=True),
        "silu": lambda net, x: F.silu(n(net, x), inplace=True),
        "gelu": lambda net, x: F.gelu(n(net, x)),
        "gelu tanh": lambda net, x: F.gelu(n(net, x), approximate="tanh"),
        "relu6": lambda net, x: F.relu6(n(net, x)),
        "hardtanh": lambda net, x: F.hardtanh(n(net, x)),
        "hardswish": lambda net, x: F.hardswish(n(net, x)),
        "hardsigmoid": lambda net, x: F.hardsigmoid(n(net, x)),
        "mish": lambda net, x: F.mish(n(net, x)),
        "sigmoid": lambda net, x: torch.sigmoid(n(net, x)),
        "tanh": lambda net, x: n(net, x).tanh(),
        "prelu": lambda net, x: net.prelu(n(net, x)),
        "prelu of channels": lambda net, x: net.prelus(n(net, x)),
        "prelu function": lambda net, x: F.prelu(n(net, x), net.prelus.weight),
        "sum and prelu": lambda net, x: net.prelus(n(net, x) + x),
        "sum": lambda net, x: n(net, x) + x,
        "sum in place": lambda net, x: n(net, x).add_(x),
        "sum and relu": lambda net, x: F.relu(n(net, x) + x),
        "sum from the left and relu": lambda net, x: F.relu(x + n(net, x)),
        "scaled sum": lambda net, x: F.relu(torch.add(n(net, x), x, alpha=2)),
        "nothing": n,
        "dropped": lambda net, x: (n(net, x), net.skip(x))[1],
        "clone": lambda net, x: n(net, x).clone(),
        "numpy": lambda net, x: torch.from_numpy(n(net, x).detach().numpy()) + net.skip(x),
        **{
            f.__name__: f
            for f in (
                *(kept, overwritten, downsampled, twice, input_changed, adds_itself, asked),
                *(into_the_other, broadcast, other_dtype, graph_asked, swish, gate_kept, catted),
                *(without_gradients, buffers_read, checkpointed, checkpointed_reentrant),
            )
        },
    }


BODIES = bodies()
FUSED = {
    *("relu", "relu module in place", "relu_", "method", "silu", "gelu", "sigmoid", "tanh", "sum"),
    *("sum in place", "sum and relu", "sum from the left and relu", "downsampled", "twice"),
    *("swish", "asked", "input_changed", "buffers_read", "prelu", "prelu of channels"),
    *("sum and prelu", "prelu function"),
    "checkpointed",
}


def run(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Two steps of training and an evaluation: outputs, gradients and buffers."""
    found: dict[str, Tensor] = {}
    model.train()
    for step in range(2):
        model.zero_grad()
        input = x.clone().requires_grad_()
        y = model(input)
        assert type(y) is Tensor
        y.double().square().mean().backward()
        found[f"y{step}"] = y.detach()
        found |= {f"{step}{k}": p.grad for k, p in model.named_parameters() if p.grad is not None}
        assert input.grad is not None
        found[f"x{step}"] = input.grad
    found |= dict(model.named_buffers())
    with torch.no_grad():
        found["evaluation"] = model.eval()(x)
    return found


def check(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        distance = (found[name].double() - value.double()).norm()
        assert float(distance) <= tolerance * float(value.double().norm() + 1e-3), name


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", BODIES)
def test_the_results_are_those_of_the_float64_original(
    name: str, layout: torch.memory_format
) -> None:
    torch.manual_seed(0)
    net = Net(BODIES[name])
    x = torch.randn(SHAPE).contiguous(memory_format=layout)
    oracle = run(copy.deepcopy(net).double(), x.double())
    # One convolution and one norm in float32: errors of some 1e-6, and a few ReLUs at 0 that flip.
    check(run(gb.convert(copy.deepcopy(net)), x), oracle, 2e-4)


@pytest.mark.parametrize("name", BODIES)
def test_what_fuses_is_one_call(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    from gammabeta import ops

    for function in ("normalize", "normalize_and_count"):
        original = getattr(ops, function)

        def noted(call: Any, original: Any = original) -> Any:
            y = original(call)
            if y is not None:
                calls.append((call.activation, call.residual is not None))
            return y

        monkeypatch.setattr(ops, function, noted)
    net = gb.convert(Net(BODIES[name]))
    net(torch.randn(SHAPE, requires_grad=True))
    fused = any(activation is not None or added for activation, added in calls)
    assert fused == (name in FUSED or name.replace(" ", "_") in ACTIVATIONS)
    assert len(calls) == (2 if name in ("twice", "downsampled") else 1)


def test_questions_about_its_shape_and_type_compute_nothing() -> None:
    norm = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))[0]
    x = torch.randn(SHAPE)
    y = norm(x)
    assert y.shape == x.shape
    assert y.size(1) == 16
    assert y.dim() == y.ndim == 4
    assert len(y) == 4
    assert y.dtype == x.dtype
    assert y.device == x.device
    assert y.numel() == x.numel()
    assert type(y) is Deferred
    assert y.requires_grad
    assert type(y) is Tensor


def test_fuse_false_turns_it_off() -> None:
    net = gb.convert(Net(BODIES["relu"]), fuse=False)
    assert isinstance(net.norm, gb.BatchNorm2d)
    assert net.norm.fuses is None
    net = gb.convert(gb.convert(net), fuse=False)
    assert net.norm.fuses is None


def test_the_report_says_what_fuses_and_why_the_rest_does_not() -> None:
    reports: list[Conversion] = []
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2)),
        nn.BatchNorm2d(8),
    )
    gb.convert(model, report=reports.append)
    fusions = {one.names[0]: (one.fuses, one.words) for one in reports[0].fusions}
    assert fusions == {
        "1": (True, "relu"),
        "4": (False, "what follows is MaxPool2d"),
        "6": (False, "its output leaves the part of the model that can be traced"),
    }
    text = str(reports[0])
    assert "1  relu" in text
    assert "1  no: what follows is MaxPool2d" in text


@pytest.mark.parametrize("name", ["relu", "downsampled", "sum and relu"])
def test_revert_gives_back_the_same_model(name: str) -> None:
    net = Net(BODIES[name])
    before = [(m, type(m), dict(m.__dict__)) for m in net.modules()]
    keys, text = list(net.state_dict()), repr(net)
    gb.convert(net)
    assert list(net.state_dict()) == keys
    gb.revert(net)
    assert repr(net) == text
    for module, cls, attributes in before:
        assert type(module) is cls
        assert module.__dict__.keys() == attributes.keys()


def test_a_hook_on_the_norm_sees_its_own_output() -> None:
    net = gb.convert(Net(BODIES["relu module in place"]))
    seen = []
    handle = net.norm.register_forward_hook(lambda module, args, y: seen.append(y.detach().clone()))
    x = torch.randn(SHAPE)
    y = net(x)
    assert float(seen[0].min()) < 0 <= float(y.detach().min())
    handle.remove()
    with torch.no_grad():
        assert torch.equal(net(x), y)


@pytest.mark.parametrize("where", ["relu", "everywhere"])
def test_a_hook_that_looks_at_what_goes_into_the_relu_sees_the_norm(where: str) -> None:
    net = gb.convert(Net(BODIES["relu module in place"]))
    seen = []

    def look(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if module is net.relu:
            seen.append(args[0].detach().clone())

    register = (
        net.relu.register_forward_pre_hook
        if where == "relu"
        else nn.modules.module.register_module_forward_pre_hook
    )
    handle = register(look)
    try:
        y = net(torch.randn(SHAPE))
    finally:
        handle.remove()
    assert float(seen[0].min()) < 0
    assert torch.equal(F.relu(seen[0]), y)


def test_a_backward_hook_on_the_relu_gets_both_gradients() -> None:
    torch.manual_seed(0)
    net = Net(lambda net, x: net.relu(n(net, x)))
    net.relu.inplace = False
    x = torch.randn(SHAPE)
    got: list[list[Tensor]] = []
    for model in (net, gb.convert(copy.deepcopy(net))):
        grads: list[Tensor] = []
        model.relu.register_full_backward_hook(
            lambda m, gin, gout, grads=grads: grads.extend((*gin, *gout))
        )
        model(x).square().sum().backward()
        got.append(grads)
    for ours, theirs in zip(*got, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_code_that_changes_its_mind_gets_the_right_numbers() -> None:
    """The graph showed ReLU; later calls do something else with the norm's output."""
    net = Net(lambda net, x: F.relu(n(net, x)))
    plain, net = copy.deepcopy(net), gb.convert(net)
    x = torch.randn(SHAPE, requires_grad=True)
    for body in BODIES.values():
        plain.body = net.body = body
        torch.testing.assert_close(net(x), plain(x), rtol=1e-3, atol=1e-4)


def test_an_input_that_was_changed_meanwhile_is_an_error_and_no_wrong_number() -> None:
    net = gb.convert(Net(lambda net, x: F.relu(n(net, x))))

    def careless(net: Any, x: Tensor) -> Tensor:
        z = net.conv(x)
        y = net.norm(z)
        z.detach().mul_(2)
        return F.relu(y)

    net.body = careless
    with pytest.raises(RuntimeError, match="layer norm: its input was changed in place"):
        net(torch.randn(SHAPE))


def test_a_consumer_that_goes_past_python_fails_aloud() -> None:
    norm = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))[0]
    y = norm(torch.randn(SHAPE))
    assert type(y) is Deferred
    with (
        torch._C.DisableTorchFunctionSubclass(),
        pytest.raises((RuntimeError, NotImplementedError)),
    ):
        (y + 1).sum().item()


@pytest.mark.parametrize("use", ["repr", "pickle", "save", "tolist", "backward"])
def test_an_output_that_leaves_the_model_is_a_tensor_to_everybody(use: str) -> None:
    norm = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))[0]
    y = norm(torch.randn(SHAPE))
    if use == "repr":
        assert "grad_fn" in repr(y)
    elif use == "pickle":
        with torch.no_grad():
            y = norm(torch.randn(SHAPE))
        assert torch.equal(pickle.loads(pickle.dumps(y)), computed(y))
    elif use == "save":
        file = io.BytesIO()
        torch.save(y.detach(), file)
        file.seek(0)
        assert torch.equal(torch.load(file), y.detach())
    elif use == "tolist":
        assert len(y.tolist()) == 4
    else:
        y.backward(torch.ones(SHAPE))
    assert type(y) is Tensor


def test_an_output_that_nobody_uses_still_counts() -> None:
    norm = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))[0]
    norm(torch.randn(SHAPE))
    assert norm.num_batches_tracked == 1
    assert float(norm.running_mean.abs().max()) > 0


def test_a_refused_batch_is_refused_once() -> None:
    model = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))
    with pytest.warns(gb.NonFiniteBatchWarning, match="0 "):
        model(torch.full(SHAPE, torch.nan))
    assert model[0].refused_batches == 1
    assert model[0].num_batches_tracked == 0


def test_raise_raises_where_the_norm_is_called() -> None:
    model = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))
    gb.guard_statistics(model, "raise")
    with pytest.raises(gb.NonFiniteBatchError):
        model[0](torch.full(SHAPE, torch.nan))


def test_a_wrong_shape_is_an_error_of_the_norm() -> None:
    model = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))
    with pytest.raises(RuntimeError, match="running_mean"):
        model[0](torch.randn(4, 17, 32, 32))


@pytest.mark.parametrize(
    "norm",
    [nn.GroupNorm(4, 16), nn.InstanceNorm2d(16, affine=True), gb.FrozenBatchNorm2d(16)],
    ids=lambda norm: type(norm).__name__,
)
@pytest.mark.parametrize("name", ["relu", "silu", "swish", "sum and relu"])
def test_other_norms_fuse_too(norm: nn.Module, name: str) -> None:
    torch.manual_seed(0)
    net = Net(BODIES[name], copy.deepcopy(norm))
    x = torch.randn(SHAPE)
    oracle = run(copy.deepcopy(net).double(), x.double())
    converted = gb.convert(copy.deepcopy(net))
    assert converted.norm.fuses is not None
    check(run(converted, x), oracle, 2e-4)


@pytest.mark.parametrize("norm", [nn.LayerNorm(64), nn.RMSNorm(64)], ids=["layer", "rms"])
def test_norms_over_the_last_dim_fuse(norm: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(64, 64), norm, nn.GELU(), nn.Linear(64, 64))
    x = torch.randn(1024, 64)
    oracle = copy.deepcopy(model).double()
    gb.convert(model)
    assert model[1].fuses == ("activation", "activation")
    torch.testing.assert_close(model(x).double(), oracle(x.double()), rtol=1e-4, atol=1e-5)


def test_autocast() -> None:
    torch.manual_seed(0)
    net = Net(BODIES["downsampled"])
    x = torch.randn(SHAPE)
    outs = []
    for model in (net, gb.convert(copy.deepcopy(net))):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        y.float().square().mean().backward()
        outs.append((y, model.conv.weight.grad))
    assert outs[0][0].dtype == outs[1][0].dtype == torch.bfloat16
    # Three roundings to 8 bits against one.
    torch.testing.assert_close(*(out[0] for out in outs), rtol=0.03, atol=0.03)
    torch.testing.assert_close(*(out[1] for out in outs), rtol=0.1, atol=2e-3)


def test_lean_memory_works_with_a_relu_of_its_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 3),
    )
    x = torch.randn(SHAPE)
    outs = []
    for memory in ("default", "lean"):
        model = gb.convert(copy.deepcopy(net), memory=memory)
        model(x).square().mean().backward()
        outs.append([p.grad for p in model.parameters()])
    for one, other in zip(*outs, strict=True):
        assert torch.equal(one, other)


# Dynamo looks at the gradients of what it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("part", ["whole", "after the norm", "the norm's"])
def test_compiled(part: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 8, 3)
    )
    x = torch.randn(SHAPE)
    expected = copy.deepcopy(net)(x)
    gb.convert(net)
    if part == "whole":
        net.compile(backend="eager", fullgraph=True)
    elif part == "after the norm":
        net[2].compile(backend="eager")
    else:
        net[1].compile(backend="eager")
    torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch.jit
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_torch_func_and_fx_and_trace() -> None:
    net = gb.convert(Net(BODIES["downsampled"])).eval()
    x = torch.randn(SHAPE)
    y = net(x)
    torch.testing.assert_close(torch.fx.symbolic_trace(net)(x), y)
    torch.testing.assert_close(torch.jit.trace(net, x, check_trace=False)(x), y)
    state = dict(net.named_parameters()) | dict(net.named_buffers())
    torch.testing.assert_close(torch.func.functional_call(net, state, x), y)
    torch.testing.assert_close(torch.vmap(net)(x[None])[0], y, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(torch.func.jvp(net, (x,), (x,))[0], y, rtol=1e-3, atol=1e-4)


def test_two_threads() -> None:
    net = gb.convert(Net(BODIES["downsampled"])).eval()
    xs = [torch.randn(SHAPE) for _ in range(4)]
    expected = [net(x) for x in xs]
    found: dict[int, Tensor] = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: net(xs[i])})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, y in enumerate(expected):
        assert torch.equal(found[i], y)


def test_a_copy_and_a_pickle_fuse_as_the_model_does() -> None:
    net = gb.convert(
        nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    ).eval()
    x = torch.randn(SHAPE)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert again[1].fuses == net[1].fuses
        assert torch.equal(again(x), net(x))


def test_data_dependent_code_is_not_traced_but_its_parts_are() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()
            )
            self.norm = nn.BatchNorm2d(16)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return F.relu(self.norm(x)) if float(x.detach().mean()) > 0 else x

    reports: list[Conversion] = []
    model = gb.convert(Gated(), report=reports.append)
    words = {one.names[0]: one.words for one in reports[0].fusions}
    assert words == {"stem.1": "relu", "norm": "no forward that contains it can be traced"}
    torch.testing.assert_close(model(torch.ones(SHAPE)).shape, torch.Size(SHAPE))


class Keeps(Net):
    """A network that puts the norm's output away where the test says."""

    def __init__(self, where: str) -> None:
        super().__init__(lambda net, x: x)
        self.where = where
        self.store: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Any:
        y = n(self, x)
        if self.where == "attribute":
            self.last = y
        elif self.where == "dict":
            self.store["y"] = y
        elif self.where == "closure":
            self.later = lambda: y
        return F.relu(y)


@pytest.mark.parametrize("where", ["attribute", "dict", "closure"])
def test_an_output_that_is_put_away_does_not_fuse(where: str) -> None:
    net = gb.convert(Keeps(where))
    assert net.norm.fuses is None
    net(torch.randn(SHAPE)).sum().backward()


def test_a_norm_whose_parameters_change_meanwhile_does_not_fuse() -> None:
    def scaled(net: Any, x: Tensor) -> Tensor:
        y = n(net, x)
        net.norm.weight.data.mul_(0.5)
        return F.relu(y + net.skip(x))

    net = Net(scaled)
    expected = copy.deepcopy(net)
    gb.convert(net)
    x = torch.randn(SHAPE)
    torch.testing.assert_close(net(x), expected(x), rtol=1e-4, atol=1e-4)


def test_used_once_more_after_a_step_is_an_error_and_no_wrong_number() -> None:
    model = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))
    kept = []
    model[1].register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    model(torch.randn(SHAPE))
    with torch.no_grad():
        model[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="its parameters were changed"):
        kept[0].sum()


def test_an_autograd_function_that_gets_it_fails_and_loses_no_gradient() -> None:
    class Identity(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, g: Tensor) -> Tensor:
            return g

    net = gb.convert(Net(BODIES["relu module in place"]))
    net.relu.inplace = False
    net.relu.register_forward_pre_hook(lambda module, args: (Identity.apply(args[0]),))
    with pytest.raises(RuntimeError):
        net(torch.randn(SHAPE)).sum().backward()


def test_attributes_of_the_output_stay() -> None:
    norm = gb.convert(nn.Sequential(nn.BatchNorm2d(16), nn.ReLU()))[0]
    y = norm(torch.randn(SHAPE))
    y.tag = 1
    torch.relu_(y)
    assert y.tag == 1
    assert type(y) is Tensor


def test_converting_disturbs_no_other_thread() -> None:
    failed: list[BaseException] = []
    stop = threading.Event()

    def run() -> None:
        other, x = nn.Sequential(nn.Linear(4, 4), nn.ReLU()), torch.randn(2, 4)
        while not stop.is_set():
            try:
                other(x)
            except BaseException as error:
                failed.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        for _ in range(5):
            gb.convert(Net(BODIES["downsampled"]))
    finally:
        stop.set()
        thread.join()
    assert failed == []
