"""What autograd and its neighbours do with the native function, in the best instruction set."""

from __future__ import annotations

import copy
import pickle
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.ops import use
from gammabeta.ops.cpu import library
from gammabeta.signal.stages import LAYER_STAGES
from tests.ops.oracle import ACTIVATIONS, drawn

pytestmark = pytest.mark.native


@pytest.fixture(autouse=True)
def best() -> Iterator[None]:
    if library.extension is None:
        pytest.skip(f"the extension was not built: {library.missing}")
    with use("native"):
        yield


def runs_natively(y: Tensor) -> bool:
    return type(y.grad_fn).__name__ == "_NormBackward"


def on_torch(f):
    """What ``f`` returns on torch's own operators."""
    with use("torch"):
        return f()


def layer_of(activation: str | None = None, dtype: torch.dtype = torch.float64) -> gb.BatchNorm2d:
    layer = gb.BatchNorm2d(3, activation=activation).to(dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1.5, 2.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    return layer


# Torch's hardsigmoid has no second derivative.
@pytest.mark.parametrize("activation", [a for a in ACTIVATIONS if a != "hardsigmoid"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives(activation: str | None, residual: bool, training: bool) -> None:
    x, r, g, v = drawn(4, 4, 3, 2, 3, dtype=torch.float64).unbind()

    def twice() -> list[Tensor]:
        layer = layer_of(activation)
        layer(x)  # statistics of its own
        layer.train(training)
        leaves = [x.clone().requires_grad_(), r.clone().requires_grad_(), *layer.parameters()]
        y = layer(leaves[0], leaves[1] if residual else None)
        if not residual:
            del leaves[1]
        assert runs_natively(y) == (library.in_use() != "torch")
        first = torch.autograd.grad(y, leaves, g, create_graph=True)
        second = torch.autograd.grad((first[0] * v).sum(), leaves, allow_unused=True)
        missing = zip(leaves, second, strict=True)
        return [*first, *(torch.zeros_like(leaf) if t is None else t for leaf, t in missing)]

    # In float64 the two differ by rounding alone: 3 · 24 terms up to 10, twice.
    assert_close(twice(), on_torch(twice), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
def test_many_gradients_at_once(activation: str | None, residual: bool) -> None:
    x, r = drawn(2, 4, 3, 2, 3, dtype=torch.float64).unbind()
    g = drawn(5, 4, 3, 2, 3, seed=3, dtype=torch.float64)
    layer = layer_of(activation)
    a = x.clone().requires_grad_()
    b = r.clone().requires_grad_() if residual else None
    leaves = [t for t in (a, b, *layer.parameters()) if t is not None]
    y = layer(a, b)
    together = torch.autograd.grad(y, leaves, g, is_grads_batched=True, retain_graph=True)
    apart = [torch.autograd.grad(y, leaves, one, retain_graph=True) for one in g]
    for i, batched in enumerate(together):
        assert_close(batched, torch.stack([one[i] for one in apart]), rtol=1e-10, atol=1e-10)


@pytest.mark.filterwarnings("ignore:`torch.jit.*deprecated")  # torch's own, in its decompositions
def test_transforms_see_torchs_operators() -> None:
    layer, x, t = layer_of().eval(), *drawn(2, 4, 3, 2, 3, dtype=torch.float64).unbind()
    state = {name: value.detach() for name, value in layer.state_dict().items()}

    def f(x: Tensor) -> Tensor:
        return torch.func.functional_call(layer, state, (x,))

    for transform in (
        lambda: torch.func.jvp(f, (x,), (t,)),
        lambda: torch.func.vjp(f, x)[1](t),
        lambda: torch.func.grad(lambda x: f(x).pow(3).sum())(x),
        lambda: torch.func.hessian(lambda x: f(x[None])[0].pow(3).sum())(x[0, :, :1, :1]),
        lambda: torch.vmap(f)(torch.stack((x, t))),
    ):
        assert_close(transform(), on_torch(transform), rtol=1e-10, atol=1e-10)
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, t))
        assert torch.autograd.forward_ad.unpack_dual(y).tangent is not None


def test_in_place_after_the_layer() -> None:
    x, g = drawn(2, 4, 3, 2, 3).unbind()
    layer = layer_of(dtype=torch.float32)
    runs = []
    for relu in (nn.ReLU(), nn.ReLU(inplace=True)):
        a = x.clone().requires_grad_()
        layer.zero_grad()
        relu(layer(a)).backward(g)  # the output is not kept, and may be changed
        runs.append((a.grad, layer.weight.grad.clone(), layer.bias.grad.clone()))
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


@pytest.mark.parametrize("which", ["x", "residual", "weight"])
def test_changed_in_place_before_backward(which: str) -> None:
    layer = layer_of("gelu", torch.float32)
    x, residual = (t.requires_grad_() for t in drawn(2, 4, 3, 2, 3).unbind())
    a, r = x * 1, residual * 1
    y = layer(a, r)
    with torch.no_grad():
        {"x": a, "residual": r, "weight": layer.weight}[which].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_backward_twice_needs_a_retained_graph() -> None:
    layer, x = layer_of("relu"), drawn(4, 3, 2, 3, dtype=torch.float64).requires_grad_()
    y = layer(x, x)
    y.sum().backward(retain_graph=True)
    first = x.grad.clone()
    y.sum().backward()
    assert_close(x.grad, 2 * first)
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


def gradient_of(name: str, x: Tensor, r: Tensor) -> Tensor:
    layer, a, b = layer_of("silu", torch.float32), x.clone(), r.clone()
    has = {"x": a, "residual": b, "weight": layer.weight, "bias": layer.bias}
    return torch.autograd.grad(layer(a.requires_grad_(), b.requires_grad_()).sum(), has[name])[0]


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, r = drawn(2, 4, 3, 2, 3).unbind()
    layer = layer_of("silu", torch.float32)
    for frozen in ("x", "residual", "weight", "bias"):
        layer.zero_grad()
        a = x.clone().requires_grad_(frozen != "x")
        b = r.clone().requires_grad_(frozen != "residual")
        layer.weight.requires_grad_(frozen != "weight")
        layer.bias.requires_grad_(frozen != "bias")
        layer(a, b).sum().backward()
        has = {"x": a, "residual": b, "weight": layer.weight, "bias": layer.bias}
        assert [name for name, t in has.items() if t.grad is None] == [frozen]
        for name, t in has.items():  # and the right one: what torch's operators give
            if name != frozen:
                expected = on_torch(lambda n=name: gradient_of(n, x, r))
                assert_close(t.grad, expected, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        assert layer(x, r).grad_fn is None
    with torch.inference_mode():
        assert layer(x).is_inference()


def test_hooks_and_retained_gradients() -> None:
    layer, x = layer_of("relu", torch.float32), drawn(4, 3, 2, 3).requires_grad_()
    seen = []
    layer.register_forward_hook(lambda module, given, y: seen.append(y.shape))
    layer.register_full_backward_hook(lambda module, gx, gy: seen.append(gx[0].shape))
    layer.weight.register_hook(lambda g: seen.append(g.shape))
    y = layer(x)
    y.retain_grad()
    y.sum().backward()
    assert seen == [x.shape, layer.weight.shape, x.shape]
    assert torch.equal(y.grad, torch.ones_like(x))


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing(reentrant: bool) -> None:
    layer, x = layer_of("relu", torch.float32), drawn(4, 3, 2, 3)
    runs = []
    for wrap in (False, True):
        one, a = copy.deepcopy(layer), x.clone().requires_grad_()
        y = checkpoint(one, a, use_reentrant=reentrant) if wrap else one(a)
        y.pow(2).sum().backward()
        runs.append((y, a.grad, one.weight.grad, one.bias.grad))
    assert all(torch.equal(u, v) for u, v in zip(*runs, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_leaves_the_layer_alone(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer_of("relu", torch.float32))
    x = drawn(4, 3, 2, 3)
    with torch.autocast("cpu", dtype=dtype):
        y = model(x)
    assert y.dtype is dtype
    assert runs_natively(y)
    y.float().sum().backward()
    assert model[1].weight.grad.dtype is torch.float32
    assert model[1].running_mean.dtype is torch.float32


def test_compiled_beside_native() -> None:
    """A graph has torch's operators; what is left out of it is native, and the two agree."""
    layer, x = layer_of("silu", torch.float32), drawn(4, 3, 2, 3)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(layer), backend="aot_eager", fullgraph=True)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    y, z = layer(a), compiled(b)
    assert runs_natively(y)
    assert not runs_natively(z)
    y.pow(2).sum().backward()
    z.pow(2).sum().backward()
    assert_close((y, a.grad), (z, b.grad), rtol=1e-5, atol=1e-5)


def test_copies_and_states_pass_between_the_kernels() -> None:
    """What a layer has learned natively is used on torch's operators, and the other way round."""
    x, later = drawn(2, 4, 3, 2, 3).unbind()
    layer = layer_of("relu", torch.float32)
    layer(x)
    loaded = layer_of("relu", torch.float32)
    loaded.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        with use("torch"):
            theirs = twin(later), {k: v.clone() for k, v in twin.state_dict().items()}
        twin.load_state_dict(layer.state_dict())
        ours = twin(later), twin.state_dict()
        # x̂ and averages of float32, of numbers below 5.
        assert_close(ours, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_under_distributed_data_parallel() -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        plain, x = layer_of("relu", torch.float32), drawn(4, 3, 2, 3)
        wrapped = nn.parallel.DistributedDataParallel(copy.deepcopy(plain))
        for model in (plain, wrapped):
            for _ in range(2):
                model.zero_grad()
                model(x).pow(2).sum().backward()
        assert torch.equal(wrapped.module.weight.grad, plain.weight.grad)
        assert all(
            torch.equal(a, b)
            for a, b in zip(wrapped.module.buffers(), plain.buffers(), strict=True)
        )
    finally:
        dist.destroy_process_group()


def test_the_signal_is_what_the_layer_makes(tmp_path: Path) -> None:
    """Watched, a native layer is recorded as one on torch's operators is."""
    x = drawn(16, 3, 4, 4)

    def recorded() -> dict[int, dict[str, float]]:
        model = nn.Sequential(layer_of("relu", torch.float32))
        path = tmp_path / f"{library.in_use()}.sqlite"
        with gb.watch(model, path, stages=LAYER_STAGES) as watch:
            y = model(x.clone().requires_grad_())
            y.pow(2).sum().backward()
            watch.step(loss=y.sum())
        with gb.Run(path) as run:
            (frame,) = run.frames()
        kept = ("count", "mean", "std", "p15", "p50", "p85", "minimum", "maximum", "gradient")
        return {
            probe: {name: v for name in kept if (v := getattr(summary, name)) is not None}
            for probe, summary in frame.signals.items()
        }

    ours = recorded()
    assert len(ours) == 4  # z, x̂, γ x̂ + β, activation
    torchs = on_torch(recorded)
    assert torchs.keys() == ours.keys()
    for probe, its in torchs.items():  # a fused kernel has no tensor, nor gradient, inside
        assert its.keys() - ours[probe].keys() <= {"gradient"}
        # Values below 10 and gradients' norms below 100, of float32.
        assert_close(ours[probe], {k: its[k] for k in ours[probe]}, rtol=1e-5, atol=1e-5)
    assert sum("gradient" in each for each in ours.values()) >= 2  # z, activation


def test_calibrating_natively() -> None:
    batches = [drawn(8, 3, 4, 4, seed=seed) + seed for seed in range(4)]

    def calibrated() -> dict[str, Tensor]:
        model = nn.Sequential(layer_of("relu", torch.float32), gb.BatchNorm2d(3))
        gb.calibrate(model, batches)
        return model.state_dict()

    assert_close(calibrated(), on_torch(calibrated), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["relu", "silu", "leaky_relu"])
def test_a_gradient_with_a_graph_where_the_residual_depends_on_the_input(activation: str) -> None:
    layer = layer_of(activation)
    x = drawn(4, 3, 2, 3, dtype=torch.float64).requires_grad_()

    def gradient(create_graph: bool) -> Tensor:
        layer.train()
        y = layer(x, x * 0.5)
        return torch.autograd.grad(y.square().sum(), x, create_graph=create_graph)[0]

    # Two orders of the same sums in float64.
    assert_close(gradient(True), gradient(False), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("change", ["half", "shorter"])
@pytest.mark.parametrize("family", ["batch", "layer", "group"])
def test_a_parameter_that_changed_before_the_backward_pass(family: str, change: str) -> None:
    """Torch raises; a kernel that went by what it knew would read past the end."""
    layer = {
        "batch": gb.BatchNorm2d(8, activation="silu"),
        "layer": gb.LayerNorm(8, activation="silu"),
        "group": gb.GroupNorm(2, 8, activation="silu"),
    }[family]
    x = torch.randn(4, 8, 8, 8, requires_grad=True)
    y = layer(x)
    if change == "half":
        layer.half()
    else:
        layer.weight.data = torch.ones(1)
    with pytest.raises(RuntimeError, match=r"weight has dtype|bias has dtype"):
        y.sum().backward()
