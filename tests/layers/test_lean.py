"""``memory="lean"``: the output is made again, bit by bit; only the memory tells."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.lab.bench.peak import peak_bytes
from gammabeta.ops.activations import ACTIVATIONS
from gammabeta.ops.cpu import autograd, library, support
from gammabeta.ops.cpu.library import extension as native
from gammabeta.ops.lean import LeanOutput

NATIVE = pytest.param("native", marks=pytest.mark.native)


@pytest.fixture(scope="module", autouse=True, params=[NATIVE])
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The native kernels alone: torch's operators keep every output."""
    with library.use(request.param), pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "SMALL", {})
        yield request.param


pytestmark = pytest.mark.skipif(native is None, reason="there are no native kernels")

MEMORIES = ("default", "lean")


class Block(nn.Module):
    """A batch norm and two convolutions to feed, in float64, always with the same numbers."""

    def __init__(self, memory: str, activation: str | None = "relu") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = gb.BatchNorm2d(6, activation=activation, memory=memory)
        self.conv, self.other = nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3)
        with torch.no_grad():
            assert self.norm.weight is not None
            assert self.norm.bias is not None
            self.norm.weight.uniform_(-1, 1)
            self.norm.bias.normal_()
        self.double()


Use = Callable[[Block, Tensor], Tensor]


def gradients(memory: str, use: Use) -> list[Tensor | None]:
    block = Block(memory)
    x = torch.randn(4, 6, 6, 6, dtype=torch.double, requires_grad=True)
    use(block, x).square().mean().backward()  # type: ignore[no-untyped-call]
    return [x.grad, *(p.grad for p in block.parameters())]


def assert_same(default: list[Tensor | None], lean: list[Tensor | None]) -> None:
    for a, b in zip(default, lean, strict=True):
        assert (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))


def network(memory: str, activation: str | None = "relu", blocks: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for i in range(blocks):
        layers += [
            nn.Conv2d(8 if i else 3, 8, 3, padding=1, bias=False),
            gb.BatchNorm2d(8, activation=activation, memory=memory),
        ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 64, 5))


@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_network_trains_bit_by_bit_the_same(
    activation: str | None, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    found = []
    for memory in MEMORIES:
        model = network(memory, activation).to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.randn(4, 3, 8, 8).to(dtype).contiguous(memory_format=layout).requires_grad_()
        model(x).float().square().mean().backward()
        found.append([x.grad, *(p.grad for p in model.parameters()), *model.buffers()])
    assert_same(*found)


@pytest.mark.parametrize("shape", [(9, 6), (4, 6, 7), (2, 6, 3, 4, 5)])
def test_so_does_a_layer_of_other_dims(shape: tuple[int, ...]) -> None:
    cls = {2: gb.BatchNorm1d, 3: gb.BatchNorm1d, 5: gb.BatchNorm3d}[len(shape)]
    found = []
    for memory in MEMORIES:
        torch.manual_seed(0)
        x = torch.randn(shape, requires_grad=True)
        y = cls(6, activation="gelu", memory=memory)(x)
        (y * y.sigmoid()).sum().backward()
        found.append([x.grad])
    assert_same(*found)


def in_place_without_gradient(block: Block, x: Tensor) -> Tensor:
    y: Tensor = block.norm(x)
    with torch.no_grad():
        y.clamp_(max=0.5)
    return block.conv(y)  # type: ignore[no-any-return]


def behind_autograds_back(block: Block, x: Tensor) -> Tensor:
    y = block.norm(x)
    y.data.clamp_(max=0.5)
    return block.conv(y)  # type: ignore[no-any-return]


def through_numpy(block: Block, x: Tensor) -> Tensor:
    y = block.norm(x)
    y.detach().numpy()[0] = 0.25
    return block.conv(y)  # type: ignore[no-any-return]


def an_item_set(block: Block, x: Tensor) -> Tensor:
    y = block.norm(x)
    y[0] = 1.0
    return block.conv(y)  # type: ignore[no-any-return]


def in_evaluation(block: Block, x: Tensor) -> Tensor:
    block.norm(x)
    return block.eval().conv(block.norm(x))  # type: ignore[no-any-return]


def a_square(block: Block, x: Tensor) -> Tensor:
    y = block.norm(x)
    return y * y


def parts(block: Block, x: Tensor) -> Tensor:
    one, other = block.norm(x).chunk(2, 1)
    return one * other[..., ::1]  # type: ignore[no-any-return]


def saved_by_anothers_hooks(block: Block, x: Tensor) -> Tensor:
    y = block.norm(x)
    with torch.autograd.graph.save_on_cpu():
        return block.conv(y)  # type: ignore[no-any-return]


USES: dict[str, Use] = {
    "two convolutions": lambda b, x: (lambda y: b.conv(y) + b.other(y))(b.norm(x)),
    "a square": a_square,
    "a concatenation": lambda b, x: (lambda y: torch.cat([y, y.exp(), y]))(b.norm(x)),
    "pooling": lambda b, x: F.max_pool2d(b.norm(x), 2),
    "views": lambda b, x: (lambda y: y.flatten(1) * y[:, :, ::2].reshape(4, -1).repeat(1, 2))(
        b.norm(x)
    ),
    "parts": parts,
    "an item set": an_item_set,
    "relu in place": lambda b, x: b.conv(F.relu_(b.norm(x))),
    "add in place": lambda b, x: b.conv(b.norm(x).add_(1)),
    "in place without gradient": in_place_without_gradient,
    "behind autograd's back": behind_autograds_back,
    "through numpy": through_numpy,
    "another norm": lambda b, x: b.conv(b.norm(b.norm(x))),
    "its own residual": lambda b, x: (lambda y: b.conv(b.norm(y, residual=y)))(b.norm(x)),
    "a norm of another family": lambda b, x: gb.LayerNorm(6).double()(b.norm(x)),
    "evaluation": in_evaluation,
    "checkpoint": lambda b, x: checkpoint(  # type: ignore[no-any-return]
        lambda t: b.conv(b.norm(t)), x, use_reentrant=False
    ),
    "reentrant checkpoint": lambda b, x: checkpoint(  # type: ignore[no-any-return]
        lambda t: b.conv(b.norm(t)), x, use_reentrant=True
    ),
    "checkpoint of the output": lambda b, x: checkpoint(  # type: ignore[no-any-return]
        b.conv, b.norm(x), use_reentrant=False
    ),
    "another's hooks": saved_by_anothers_hooks,
    "a copy of the model": lambda b, x: (lambda c: c.conv(c.norm(x)))(copy.deepcopy(b)),
    "tracing": lambda b, x: torch.fx.symbolic_trace(nn.Sequential(b.norm, b.conv))(x),
    "a script": lambda b, x: torch.jit.script(nn.Sequential(b.norm, b.conv))(x),  # type: ignore[no-any-return]
    "vmap": lambda b, x: torch.vmap(torch.sin)(b.norm(x)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_whatever_uses_the_output(use: Use) -> None:
    assert_same(gradients("default", use), gradients("lean", use))


def test_the_output_is_not_kept_and_made_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    again = autograd._again

    def counting(*args: object) -> Tensor:
        made.append(1)
        return again(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(autograd, "_again", counting)
    block = Block("lean")
    y = block.norm(torch.randn(4, 6, 6, 6, dtype=torch.double))
    z = block.conv(y) + block.other(y) + (y.flatten(1) * y.flatten(1)).sum()
    storage = StorageWeakRef(y.untyped_storage())
    del y
    assert storage.expired()
    z.sum().backward(retain_graph=True)
    assert len(made) == 1
    z.sum().backward()
    assert len(made) == 5  # nobody knows how many are still to come, the second time


def test_memory_falls() -> None:
    peaks = {}
    for memory in MEMORIES:
        model = network(memory, blocks=8)
        x = torch.randn(4, 3, 8, 8)
        peaks[memory] = peak_bytes(lambda model=model, x=x: model(x).sum().backward())
    # Two tensors a block become one, beside the few that a backward step works on.
    assert peaks["lean"] < 0.75 * peaks["default"]


def test_autocast_keeps_no_output() -> None:
    found = []
    for memory in MEMORIES:
        block = Block(memory).float()
        x = torch.randn(4, 6, 6, 6, generator=torch.Generator().manual_seed(0))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = block.norm(block.other(x))
            assert y.dtype is torch.bfloat16
            z = block.conv(y)
        storage = StorageWeakRef(y.untyped_storage())
        del y
        assert storage.expired() == (memory == "lean")
        z.float().sum().backward()
        found.append([p.grad for p in block.parameters()])
    assert_same(*found)


def test_second_derivatives_are_right() -> None:
    block = Block("lean", "silu")

    def f(x: Tensor) -> Tensor:
        return block.conv(block.norm(x))  # type: ignore[no-any-return]

    x = torch.randn(2, 6, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(f, x)
    assert torch.autograd.gradgradcheck(f, x)


def test_a_graph_is_kept_or_freed_as_by_default() -> None:
    block = Block("lean")
    z = block.conv(block.norm(torch.randn(4, 6, 6, 6, dtype=torch.double))).sum()
    z.backward(retain_graph=True)
    z.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        z.backward()


@pytest.mark.parametrize("what", ["the input", "weight of the norm", "weight of the convolution"])
def test_what_is_needed_again_may_not_change_in_between(what: str) -> None:
    block = Block("lean")
    x = torch.randn(4, 6, 6, 6, dtype=torch.double)
    z = block.conv(block.norm(x)).sum()
    with torch.no_grad():
        changed = {"the input": x, "weight of the norm": block.norm.weight}.get(
            what, block.conv.weight
        )
        assert changed is not None
        changed.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.backward()


def test_to_everybody_else_it_is_a_tensor() -> None:
    block = Block("lean")
    x = torch.randn(4, 6, 6, 6, dtype=torch.double)
    y = block.norm(x)
    assert type(y) is LeanOutput
    assert isinstance(y, Tensor)
    assert type(y + 1) is type(y.detach()) is type(y[0].sum()) is Tensor
    assert repr(y).startswith("tensor(")
    assert "grad_fn=<_Norm" in repr(y)
    assert type(y) is LeanOutput
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    for loaded in (torch.load(file), pickle.loads(pickle.dumps(y))):
        assert type(loaded) is Tensor
        assert torch.equal(loaded, y)
    with pytest.raises(RuntimeError, match="graph leaves"):
        copy.deepcopy(y)
    with pytest.raises(RuntimeError, match="requires grad"):
        y.numpy()


def test_hooks_on_the_output_are_called() -> None:
    block, seen = Block("lean"), []
    y = block.norm(torch.randn(4, 6, 6, 6, dtype=torch.double))
    y.register_hook(seen.append)
    z = block.conv(y).sum()
    (g,) = torch.autograd.grad(z, y, retain_graph=True)
    y.retain_grad()
    z.backward()
    assert torch.equal(seen[-1], g)
    assert y.grad is not None
    assert torch.equal(y.grad, g)


def test_without_a_graph_it_is_a_plain_tensor() -> None:
    block, x = Block("lean"), torch.randn(4, 6, 6, 6, dtype=torch.double)
    with torch.no_grad():
        assert type(block.norm(x)) is Tensor
    with torch.inference_mode():
        assert type(block.norm(x)) is Tensor
    assert type(block.norm(x, residual=x)) is Tensor


def test_a_compiled_model_falls_back() -> None:
    block, x = Block("lean"), torch.randn(4, 6, 6, 6, dtype=torch.double)
    compiled = torch.compile(nn.Sequential(block.norm, block.conv), backend="aot_eager")
    compiled(x).sum().backward()
    assert block.norm.weight is not None
    assert block.norm.weight.grad is not None


def test_a_watched_model_trains_the_same(tmp_path: Path) -> None:
    found = []
    for memory in MEMORIES:
        model = network(memory)
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        with gb.watch(model, tmp_path / f"{memory}.gb") as watch:
            for _ in range(3):
                model(x).square().mean().backward()
                optimizer.step()
                watch.step()
        found.append(list(model.parameters()))
    assert_same(*found)


def test_the_keyword() -> None:
    assert repr(gb.BatchNorm1d(3, memory="lean")).endswith("memory='lean')")
    assert "memory" not in repr(gb.BatchNorm1d(3))
    with pytest.raises(ValueError, match="memory='leen' is not known; did you mean 'lean'"):
        gb.BatchNorm3d(3, memory="leen")
    lazy = gb.LazyBatchNorm2d(memory="lean")
    lazy(torch.randn(2, 3, 4, 4))
    assert lazy.memory == "lean"
    assert type(lazy) is gb.BatchNorm2d


def test_convert_passes_it() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), gb.BatchNorm1d(4), nn.LayerNorm(5))
    gb.convert(model, memory="lean")
    assert [getattr(layer, "memory", None) for layer in model] == ["lean", "lean", None]
    gb.revert(model)
    assert [type(layer) for layer in model] == [nn.BatchNorm2d, nn.BatchNorm1d, nn.LayerNorm]
    assert "memory" not in vars(model[0])
    model = nn.Sequential(nn.GroupNorm(1, 4))
    assert gb.convert(model, to="batch", dims=2, memory="lean")[0].memory == "lean"
    with pytest.raises(ValueError, match="memory='full' is not known"):
        gb.convert(model, memory="full")
