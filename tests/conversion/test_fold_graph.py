"""Tracing a model for its data flow: as much as can be traced, and nothing of the model changes."""

from __future__ import annotations

import copy
import random
import sqlite3
import threading
import time
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.graph.parts import Part, traced_parts


def calls(part: Part) -> list[str]:
    """The modules a part calls, by their names in the model."""
    assert part.graph is not None, part.reason
    return [part.name(node.target) for node in part.graph.nodes if node.op == "call_module"]


def by_path(model: nn.Module, training: bool | None = None) -> dict[str, Part]:
    return {part.path: part for part in traced_parts(model, training)}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 2, 3), gb.BatchNorm2d(2, activation="relu")

    def forward(self, x: Tensor, scale: float = 1.0, *, skip: Tensor | None = None) -> Tensor:
        if scale != 1.0 or skip is not None:
            raise AssertionError
        return self.bn(self.conv(x))


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.late = Block(), Block(), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if x.mean() > 0 else x


def test_a_whole_model_is_one_part() -> None:
    (part,) = traced_parts(nn.Sequential(Block(), nn.Flatten()))
    assert part.path == ""
    assert calls(part) == ["0.conv", "0.bn", "1"]


def test_what_depends_on_data_is_left_and_its_blocks_are_traced() -> None:
    parts = by_path(DataDependent())
    assert parts[""].graph is None
    assert "depends on" in parts[""].reason
    assert calls(parts["first"]) == ["first.conv", "first.bn"]
    assert calls(parts["second"]) == ["second.conv", "second.bn"]


def test_a_module_that_cannot_be_traced_is_a_node_of_the_others() -> None:
    parts = by_path(nn.Sequential(nn.Conv2d(2, 2, 1), DataDependent(), nn.ReLU()))
    assert calls(parts[""]) == ["0", "1", "2"]
    assert parts["1"].graph is None
    assert calls(parts["1.first"]) == ["1.first.conv", "1.first.bn"]


def test_a_module_with_hooks_is_a_node_and_they_do_not_run() -> None:
    model = nn.Sequential(Block(), nn.ReLU())
    model[0].register_forward_hook(lambda *_: pytest.fail("the hook ran"))
    model[0].conv.register_forward_pre_hook(lambda *_: pytest.fail("the hook ran"))
    parts = by_path(model)
    assert calls(parts[""]) == ["0", "1"]
    assert calls(parts["0"]) == ["0.conv", "0.bn"]


def test_a_replaced_forward_is_not_run() -> None:
    model = nn.Sequential(Block(), nn.ReLU())
    model[0].forward = lambda x: pytest.fail("it ran")
    parts = by_path(model)
    assert calls(parts[""]) == ["0", "1"]
    assert parts["0"].reason == "its forward was replaced on the object"


class Careless(nn.Module):
    """Does everything that a trial must not let through."""

    def __init__(self) -> None:
        super().__init__()
        self.bn, self.outputs, self.count, self.seen = nn.BatchNorm2d(2), [], 0, {"x": [1]}
        self.lock, self.register = threading.Lock(), sqlite3.connect(":memory:")
        self.table = torch.ones(3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        print("side effect")
        self.outputs.append(x)
        self.count += 1
        self.seen["x"].append(x)
        self.calls.add_(1)
        self.calls = self.calls + 1
        self.table += 1
        self.bn.weight.data.zero_()
        noise = (
            torch.rand(3)
            + torch.rand(3, device="cpu").to("meta")
            + random.random()
            + np.random.rand()
        )
        torch.set_grad_enabled(False)
        return self.bn(x + noise)


def test_nothing_of_the_model_or_the_process_changes(capsys: pytest.CaptureFixture[str]) -> None:
    model = Careless()
    before = copy.deepcopy(model.state_dict())
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = torch.rand(1), random.random(), np.random.rand()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    (part,) = traced_parts(model)
    assert calls(part) == ["bn"]
    assert (torch.rand(1), random.random(), np.random.rand()) == expected
    assert torch.is_grad_enabled()
    assert (model.outputs, model.count, model.seen) == ([], 0, {"x": [1]})
    assert torch.equal(model.table, torch.ones(3))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert capsys.readouterr().out == ""


def test_an_object_without_a_copy_is_not_used() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register = sqlite3.connect(":memory:")

        def forward(self, x: Tensor) -> Tensor:
            self.register.execute("create table t (a)")
            return x

    model = Writes()
    (part,) = traced_parts(model)
    assert "Connection" in part.reason
    assert model.register.execute("select count(*) from sqlite_master").fetchone() == (0,)


@pytest.mark.parametrize(
    "error", [ValueError("x\ny"), SystemExit(3), RecursionError(), KeyError(1)]
)
def test_any_error_is_a_reason(error: BaseException) -> None:
    class Raises(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise error

    parts = by_path(nn.Sequential(Block(), Raises()))
    assert calls(parts[""]) == ["0.conv", "0.bn", "1"]
    assert parts["1"].graph is None
    assert "\n" not in parts["1"].reason
    assert type(error).__name__ in parts["1"].reason


def test_the_mode_is_concrete() -> None:
    class ByMode(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.extra = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Any:
            return (self.main(x), self.extra(x)) if self.training else self.main(x)

    model = ByMode()
    assert calls(by_path(model)[""]) == ["main", "extra"]
    assert calls(by_path(model, training=False)[""]) == ["main"]
    assert model.training


def test_uses_of_tensors_by_other_code_are_noticed() -> None:
    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.free = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            if self.free.weight.shape[0] != 2 or self.free.weight.dtype is not torch.float32:
                raise AssertionError
            norm = sum(p.norm() for p in self.bn._parameters.values() if p is not None)
            return F.conv2d(x.to(self.free.weight.device), self.conv.weight) * norm

    (part,) = traced_parts(Uses())
    assert part.tensors == {"conv.weight", "bn.weight", "bn.bias"}


def test_code_that_asks_for_a_tensor_gets_one() -> None:
    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ReLU()

        def forward(self, x: Any) -> Tensor:
            features = [x] if isinstance(x, Tensor) else list(x)
            return self.layer(torch.cat(features, 1))

    (part,) = traced_parts(nn.Sequential(Asks()))
    assert calls(part) == ["0.layer"]


def test_code_that_depends_on_shapes_is_traced_with_an_example() -> None:
    class Pads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn, self.odd = nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU()

        def forward(self, x: Tensor, times: int = 1) -> Tensor:
            n, c, h, w = x.shape
            for _ in range(int(h) % 4 + len(x) - n):
                x = F.pad(x, (0, w % 2, 0, h % 2))
            x = self.bn(self.conv(x))
            if x.size(1) != c or x.dim() != 4 or x.numel() == 0 or x.dtype is not torch.float32:
                raise AssertionError
            return self.odd(x) if times == 2 and x.shape[-1] > 3 else x

    assert by_path(Pads())[""].graph is None
    x = torch.randn(1, 2, 6, 6)
    (part,) = traced_parts(Pads(), example=x)
    assert calls(part) == ["conv", "bn"]
    (part,) = traced_parts(Pads(), example={"x": x, "times": 2})
    assert calls(part) == ["conv", "bn", "odd"]
    (part,) = traced_parts(Pads(), example=(x, 2))
    assert calls(part) == ["conv", "bn", "odd"]


def test_a_file_is_as_it_was_after_a_trial() -> None:
    assert "isinstance" not in globals()


def test_a_module_of_torchs_with_others_inside() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, src: Tensor, **_: Any) -> Tensor:
            return self.block(src)

    model = nn.Transformer(4, 1, custom_encoder=Own(), custom_decoder=nn.Identity())
    assert calls(by_path(model)["encoder"]) == ["encoder.block.conv", "encoder.block.bn"]


def test_compiled_and_scripted_modules() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
        compiled = torch.compile(Block())  # imports what scripts
    parts = by_path(nn.Sequential(nn.Linear(2, 2), scripted))
    assert calls(parts[""]) == ["0", "1"]
    assert calls(by_path(compiled)["_orig_mod"]) == ["_orig_mod.conv", "_orig_mod.bn"]


def test_a_thousand_modules_are_quick() -> None:
    model = nn.Sequential(*(nn.Sequential(Block(), nn.ReLU()) for _ in range(250)))
    start = time.process_time()
    (part,) = traced_parts(model)
    assert len(calls(part)) == 750
    assert time.process_time() - start < 5  # 0.1 s here
    stuck = nn.Sequential(*(DataDependent() for _ in range(150)))
    start = time.process_time()
    assert sum(part.graph is not None for part in traced_parts(stuck)) == 301
    assert time.process_time() - start < 5  # 0.2 s here
