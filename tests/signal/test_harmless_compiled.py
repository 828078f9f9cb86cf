"""A watch changes no bit of a training of compiled models, compiled blocks, compiled functions."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.signal.harmless import plain_step, stages_of, unharmed
from tests.signal.public_models import PUBLIC, drawn, seeded

STEPS = 8
"""Enough for frames before and after a recompilation."""

compile_ = partial(torch.compile, backend="aot_eager")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(6, 12), nn.LayerNorm(12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.gelu(self.norm(self.first(x))))


class Stack(nn.Module):
    """Blocks with a residual sum, batch norm, functions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def classes(model: nn.Module, step: int) -> Tensor:
    """Cross entropy of mini-batches of two sizes: the second one is compiled anew."""
    size = 16 if step < STEPS // 2 else 12
    out = model(drawn(size, 6, seed=step))
    return F.cross_entropy(out, torch.arange(size) % 4)


def whole(model: nn.Module) -> nn.Module:
    compiled: Any = compile_(model)
    return compiled  # type: ignore[no-any-return]


def whole_graph(model: nn.Module) -> nn.Module:
    compiled: Any = compile_(model, fullgraph=True)
    return compiled  # type: ignore[no-any-return]


def in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="aot_eager")
    return model


def blocks(model: nn.Module) -> nn.Module:
    for index, block in enumerate(model.blocks):  # type: ignore[arg-type]
        model.blocks[index] = compile_(block)  # type: ignore[index, operator]
    return model


def blocks_in_place(model: nn.Module) -> nn.Module:
    for block in model.blocks:  # type: ignore[union-attr]
        block.compile(backend="aot_eager", fullgraph=True)
    return model


def one_forward(model: nn.Module) -> nn.Module:
    model.blocks[1].forward = compile_(model.blocks[1].forward)  # type: ignore[index, union-attr]
    return model


def seen_from_outside(frames: list[Any], said: list[str]) -> bool:
    """Whether each step is a frame, and one warning says what was not looked into."""
    told = [text for text in said if "compiled" in text]
    return len(frames) == STEPS and len(told) == 1 and "training continues" not in told[0]


@pytest.mark.parametrize("how", [whole, whole_graph, in_place, blocks, blocks_in_place])
def test_compiled_before_the_watch_begins(
    how: Callable[[nn.Module], nn.Module], path: Path
) -> None:
    make = seeded(lambda: how(Stack()))
    frames, said = unharmed(make, plain_step(classes), path, steps=STEPS)
    assert seen_from_outside(frames, said), said


@pytest.mark.parametrize("how", [in_place, blocks, blocks_in_place])
def test_compiled_after_the_watch_begins(how: Callable[[nn.Module], nn.Module], path: Path) -> None:
    frames, said = unharmed(seeded(Stack), plain_step(classes), path, steps=STEPS, after=how)
    assert seen_from_outside(frames, said), said


@pytest.mark.parametrize("how", [whole, in_place, blocks, blocks_in_place])
def test_compiled_at_the_defaults(how: Callable[[nn.Module], nn.Module], path: Path) -> None:
    make = seeded(lambda: how(Stack()))
    frames, said = unharmed(make, plain_step(classes), path, steps=STEPS, arm="model")
    assert seen_from_outside(frames, said), said


@pytest.mark.parametrize("how", [whole, in_place, blocks, blocks_in_place])
def test_uncompiled_passes_show_the_inside(
    how: Callable[[nn.Module], nn.Module], path: Path
) -> None:
    """The bits agree here because this backend rounds as torch does."""
    make = seeded(lambda: how(Stack()))
    options = {"uncompiled": True, "every": 1}
    frames, said = unharmed(make, plain_step(classes), path, steps=STEPS, **options)
    assert len(frames) == STEPS, said
    assert {"z", "normalized", "affine", "activation"} <= stages_of(path)["blocks.1.first"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compiled_forward(when: str, path: Path) -> None:
    make = seeded(lambda: one_forward(Stack()) if when == "before" else Stack())
    after = one_forward if when == "after" else lambda model: None
    frames, said = unharmed(make, plain_step(classes), path, steps=STEPS, after=after)
    assert len(frames) == STEPS, said


def test_what_surrounds_compiled_blocks_is_seen(path: Path) -> None:
    frames, said = unharmed(seeded(lambda: blocks(Stack())), plain_step(classes), path, steps=STEPS)
    assert len(frames) == STEPS, said
    seen = stages_of(path)
    assert {"z", "normalized", "affine", "activation"} <= seen["stem"]


def test_the_watched_model_is_inside_the_compiled_one(path: Path) -> None:
    """A person watches the model, and calls the compiled one."""

    def loss(model: nn.Module, step: int) -> Tensor:
        held = vars(model)
        if "outer" not in held:
            held["outer"] = [compile_(model)]  # not a submodule
        return classes(held["outer"][0], step)

    frames, said = unharmed(seeded(Stack), plain_step(loss), path, steps=STEPS)
    assert frames or any("not called" in text for text in said), said


@torch.compile(backend="aot_eager")
def fused(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.tanh(F.linear(x, weight, bias)) * torch.sigmoid(x)


class Decorated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = fused(self.norm(x), self.first.weight, self.first.bias)
        return self.head(F.relu(x))


def test_a_compiled_function_in_forward(path: Path) -> None:
    frames, said = unharmed(seeded(Decorated), plain_step(classes), path, steps=STEPS)
    assert len(frames) == STEPS, said


def test_a_compiled_loss_around_the_model(path: Path) -> None:
    """The function that is compiled calls the model, as a training step that is compiled does."""
    losses: dict[int, Callable[..., Tensor]] = {}

    def loss(model: nn.Module, step: int) -> Tensor:
        def compute(x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(model(x), y)

        if id(model) not in losses:
            losses[id(model)] = compile_(compute)
        return losses[id(model)](drawn(16, 6, seed=step), torch.arange(16) % 4)

    frames, said = unharmed(seeded(Stack), plain_step(loss), path, steps=STEPS)
    assert frames or any("not called" in text for text in said), said


@pytest.mark.parametrize("name", ["GPT-2", "resnet18_wd4"])
def test_public_models(name: str, path: Path) -> None:
    public = PUBLIC[name]
    make = seeded(lambda: whole(public.make()))
    frames, said = unharmed(make, plain_step(public.loss), path, steps=STEPS)
    assert seen_from_outside(frames, said), said


def test_autocast_around_a_compiled_model(path: Path) -> None:
    def loss(model: nn.Module, step: int) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return classes(model, step)

    frames, said = unharmed(seeded(lambda: whole(Stack())), plain_step(loss), path, steps=STEPS)
    assert seen_from_outside(frames, said), said


class Inner(nn.Module):
    """A compiled function whose inductor kernel rounds differently from torch's operators."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(6, 6), nn.Linear(6, 4)
        self.inner = torch.compile(_rounded, backend="inductor")

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.inner(self.first(x)))


def _rounded(x: Tensor) -> Tensor:
    return F.gelu(torch.softmax(x * 1.7 + 0.3, -1) * torch.exp(-x.square())).sin()


def _one_block() -> Stack:
    model = Stack()
    del model.blocks[1:]
    return model


def _whole_by_inductor() -> nn.Module:
    compiled: Any = torch.compile(_one_block(), backend="inductor")
    return compiled  # type: ignore[no-any-return]


def _forward_by_inductor() -> nn.Module:
    """``forward`` itself is replaced: no hook tells of it."""
    model = _one_block()
    model.forward = torch.compile(model.forward, backend="inductor", fullgraph=True)  # type: ignore[method-assign]
    return model


def _block_by_inductor() -> nn.Module:
    model = _one_block()
    model.blocks[0].compile(backend="inductor")
    return model


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # inductor's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize(
    "build", [_whole_by_inductor, _block_by_inductor, _forward_by_inductor, Inner]
)
def test_inductor(build: Callable[[], nn.Module], path: Path) -> None:
    """Its kernels round differently from torch's, so no pass may be run without them."""
    frames, said = unharmed(seeded(build), plain_step(classes), path, steps=STEPS)
    assert len(frames) == STEPS, said


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_rounds_differently() -> None:
    """Else the test before would prove nothing."""
    x = drawn(16, 6, seed=0)
    assert not torch.equal(torch.compile(_rounded, backend="inductor")(x), _rounded(x))
