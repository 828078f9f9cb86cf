"""An examination leaves the model as it was, whatever happens; bad input is refused in a line."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules import module as global_hooks
from torch.utils.data import DataLoader, TensorDataset

import gammabeta as gb
from gammabeta.doctor import Evidence, Finding, Subject
from gammabeta.doctor.evidence import PASSES
from gammabeta.statistics import progress
from tests.doctor.rules import rule


class Odd(nn.Module):
    """A model with everything that a forward pass can change."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.scaled = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.codebook = nn.Parameter(torch.randn(8), requires_grad=False)
        self.head = nn.Linear(8, 3)
        self.body[1].running_mean.fill_(torch.nan)
        self.seen: list[int] = []
        self.last: Tensor | None = None
        self.fails_at = 10**9

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        self.codebook.data.add_(1)
        self.last = self.scaled(self.body(x)) + self.codebook + random.random()
        if len(self.seen) >= self.fails_at:
            raise RuntimeError("no more")
        with torch.enable_grad():
            self.head(self.last.detach()).sum().backward()
        return self.head(self.last + numpy.random.rand())


def bits(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def everything(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {
        "rng": bits(torch.get_rng_state()),
        "numpy": numpy.random.get_state()[1].tobytes(),  # type: ignore[index, union-attr]
        "random": random.getstate(),
        "grad": torch.is_grad_enabled(),
        "global hooks": [
            list(getattr(global_hooks, name))
            for name in ("_global_forward_hooks", "_global_forward_pre_hooks")
        ],
    }
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        grad = None if tensor.grad is None else bits(tensor.grad)
        found[f"tensor {name}"] = id(tensor), bits(tensor), grad, tensor.requires_grad
    for name, module in model.named_modules():
        registries = ("_parameters", "_buffers", "_modules")
        own = {k: v for k, v in module.__dict__.items() if k not in registries}
        found[f"module {name}"] = (
            type(module),
            {k: list(v) if isinstance(v, (dict, list)) else repr(v) for k, v in own.items()},
            {key: list(getattr(module, key)) for key in registries},
        )
    return found


def batches(count: int = 3) -> list[tuple[Tensor, Tensor]]:
    made = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 4, generator=made), torch.randint(0, 3, (16,), generator=made))
        for _ in range(count)
    ]


@pytest.fixture
def odd() -> Odd:
    torch.manual_seed(0)
    model = Odd()
    model.body.eval()
    model(batches()[0][0]).sum().backward()  # every parameter has a gradient
    model.body[1].train()
    model.register_forward_hook(lambda *_: None)
    return model


def spoils(subject: Subject) -> Iterator[Finding]:
    """Do everything that a rule must not."""
    model: Any = subject.model
    yield Finding(severity="info", layer="", cause="before it failed")
    model.head.weight.data.zero_()
    model.head.bias.requires_grad_(False)
    model.head.weight.grad = None
    model.body[1].running_var.fill_(7)
    model.body[1].momentum = 0.7
    model.train()
    model.register_forward_hook(lambda *_: None)
    model.new = nn.Linear(1, 1)
    del model.body[3]
    torch.manual_seed(7)
    random.seed(7)
    numpy.random.seed(7)
    raise KeyError("a bug")


def test_rules_that_fail_are_notes_and_leave_no_trace(odd: Odd) -> None:
    before = everything(odd)
    with rule(spoils):
        report = gb.examine(odd, select=["XY101"])
    assert everything(odd) == before
    assert [f.cause for f in report.findings] == ["before it failed"]
    assert report.notes == ["XY101 (made-up) failed: KeyError: 'a bug'"]


@pytest.mark.parametrize("grad", [True, False])
def test_all_rules_leave_no_trace(odd: Odd, grad: bool) -> None:
    before = everything(odd)
    with torch.set_grad_enabled(grad), rule(spoils), rule(lambda *_: 1 / 0, "batches", "XY201"):
        inside = everything(odd)
        report = gb.examine(odd, batches(), nn.CrossEntropyLoss())
        assert everything(odd) == inside
    assert everything(odd) == before
    assert 0 < report.passes <= PASSES
    failed = {note.split()[0] for note in report.notes if " failed: " in note}
    assert failed == {"XY101", "XY201"}


@pytest.mark.parametrize("call", [1, 2, 6])
def test_a_forward_pass_that_fails_midway_leaves_no_trace(odd: Odd, call: int) -> None:
    odd.fails_at = len(odd.seen) + call
    before = everything(odd)
    if call == 1:
        with pytest.raises(ValueError, match=r"does not accept the first batch.*RuntimeError: no"):
            gb.examine(odd, batches(8))
    else:
        gb.examine(odd, batches(8))
    assert everything(odd) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
@pytest.mark.parametrize("where", ["rule", "forward", "batches"])
def test_an_interrupt_leaves_no_trace(odd: Odd, error: type[BaseException], where: str) -> None:
    def interrupted(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
        assert evidence.trained
        subject.model.train()
        raise error

    def forward(batch: Any) -> Tensor:
        odd(batch[0])
        raise error

    def source() -> Iterator[Any]:
        torch.rand(3)
        yield batches()[0]
        raise error

    before = everything(odd)
    given: dict[str, Any] = {"forward": forward} if where == "forward" else {}
    data: Any = source() if where == "batches" else batches()
    check: Callable[..., Any] = interrupted if where == "rule" else lambda *_: ()
    expected: Any = error if error is not MemoryError else (MemoryError, ValueError)
    with rule(check, "batches", "XY201"):
        if error is MemoryError and where == "rule":
            assert gb.examine(odd, data, select=["XY201"]).notes
        else:
            with pytest.raises(expected):
                gb.examine(odd, data, select=["XY201"], **given)
    assert everything(odd) == before


def test_a_pending_backward_pass_still_works() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    loss = model(batches()[0][0]).square().sum()
    twin = copy.deepcopy(model)
    twin(batches()[0][0]).square().sum().backward()
    gb.examine(model, batches(), nn.CrossEntropyLoss())
    loss.backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(mine.grad, other.grad)  # type: ignore[arg-type]


def test_a_data_loader_draws_what_it_would_have_drawn() -> None:
    data = TensorDataset(torch.arange(64.0).view(-1, 4))
    loader = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    twin = DataLoader(data, 8, shuffle=True, generator=torch.Generator().manual_seed(3))
    gb.examine(nn.BatchNorm1d(4), loader)
    assert [b[0].tolist() for b in loader] == [b[0].tolist() for b in twin]


def test_batches_come_back_as_they_were() -> None:
    model = nn.Sequential(nn.ReLU(inplace=True), nn.BatchNorm1d(4))
    given = batches()
    before = copy.deepcopy(given)
    gb.examine(model, given)
    for (x, y), (old_x, old_y) in zip(given, before, strict=True):
        assert torch.equal(x, old_x)
        assert torch.equal(y, old_y)


def test_a_model_made_under_inference_mode() -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    before = everything(model)
    assert gb.examine(model, batches()).notes == []
    assert everything(model) == before


def test_one_reason_is_one_note() -> None:
    with rule(lambda *_: 1 / 0), rule(lambda *_: 1 / 0, code="XY102"):
        notes = gb.examine(net(), select=["XY"]).notes
    assert notes == ["XY101 (made-up), XY102 (made-up) failed: ZeroDivisionError: division by zero"]


def test_twenty_passes_at_most_however_many_rules_ask() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))

    def greedy(subject: Subject, evidence: Evidence) -> Iterator[Finding]:
        while True:
            evidence.run(evidence.batches[0], "train")
            yield from ()

    with rule(greedy, "batches", "AA101"):  # before all others
        report = gb.examine(model, batches(20), nn.CrossEntropyLoss())
    assert len(calls) == report.passes == PASSES
    assert report.notes[-1].startswith("AA101 (made-up), ")
    assert report.notes[-1].endswith(" not run: no forward pass was left")


def test_progress_is_shown(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    gb.examine(model, batches(), progress=True)
    assert "examining" in capfd.readouterr().err
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    gb.examine(model, batches())  # no terminal
    gb.examine(model, batches(), progress=False)
    assert capfd.readouterr().err == ""


# Bad input


def on_meta() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).to("meta")


def refuse(error: type[Exception], said: str, *args: Any, **kwargs: Any) -> None:
    with pytest.raises(error, match=said) as raised:
        gb.examine(*args, **kwargs)
    assert "\n" not in str(raised.value)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def test_bad_input_is_refused_in_one_line() -> None:
    wide = [(torch.randn(16, 5), torch.zeros(16).long())]
    loss = nn.CrossEntropyLoss()
    refuse(TypeError, "model is of type dict; give a torch.nn.Module", {})
    refuse(TypeError, "model is of type type; give", nn.Linear)
    refuse(ValueError, r"model: '0.weight' is on the meta device .* load_state_dict", on_meta())
    refuse(ValueError, "on the meta device", on_meta(), batches())
    refuse(ValueError, "'weight' is a lazy parameter.*run the model", nn.LazyLinear(3), batches())
    refuse(ValueError, r"does not accept the first batch \(of shape \(16, 5\)\): Runt", net(), wide)
    later = [batches()[0], wide[0]]
    refuse(ValueError, r"accept batch 1 .counted from 0. \(of shape \(16, 5\)\)", net(), later)
    nothing = [*batches(2), (torch.zeros(0, 4), torch.zeros(0).long())]
    refuse(ValueError, r"batch 2 .* is empty, of shape \(0, 4\); omit", net(), nothing)
    refuse(ValueError, "batches is empty", net(), [])
    refuse(TypeError, "batches is of type int; give an iterable", net(), 3)
    refuse(TypeError, r"one tensor, of shape \(8, 4\); give a list", net(), torch.ones(8, 4))
    refuse(ValueError, "first batch .without a tensor", net(), ["text"])
    refuse(ValueError, "batches raised ZeroDivisionError", net(), (1 / n for n in (0,)))
    refuse(TypeError, "loss is of type str; give a function", net(), batches(), "mse")
    refuse(TypeError, "forward is of type str", net(), batches(), forward="x")
    said = r"forward raised on the first batch .of shape .16, 4..: TypeError: .*as forward\(batch\)"
    refuse(ValueError, said, net(), batches(), forward=lambda model, batch: model(batch))
    refuse(TypeError, "optimizer is of type str", net(), batches(), optimizer="sgd")
    for reduced in (nn.CrossEntropyLoss(reduction="none"), lambda y, t: y):
        refuse(ValueError, "loss returned a tensor of shape .* scalar", net(), batches(), reduced)
    refuse(ValueError, "loss returned a NoneType", net(), batches(), lambda y, t: None)
    refuse(ValueError, "loss raised TypeError: .* output", net(), batches(), lambda: 0)
    refuse(ValueError, "loss raised", net(), [torch.randn(4, 4)], loss)
    refuse(ValueError, "select='GB9' matches no rule; .* GB1 ", net(), select="GB9")
    refuse(TypeError, "select holds 101, which is no text", net(), select=[101])
    refuse(ValueError, "leaves only rules that need batches", net(), select=["GB2"])
    refuse(ValueError, "only rules about trainings", net(), select=["GB301"])
    refuse(ValueError, "ignore=.* leaves no rule", net(), ignore=["GB"])


def test_an_optimizer_of_another_model_is_a_note() -> None:
    model, other = net(), net()
    report = gb.examine(model, optimizer=torch.optim.SGD(other.parameters()))
    assert report.healthy
    assert report.notes == [
        "optimizer holds no parameter of this model; give the one that trains it"
    ]
    assert gb.examine(model, optimizer=torch.optim.SGD(model[2].parameters())).notes == []


def test_what_will_do() -> None:
    assert gb.examine(nn.LazyLinear(3)).notes == []  # only read
    assert gb.examine(net(), batches()[0][0].split(8)).passes > 0  # tensors
    assert gb.examine(net(), [{"input": batches()[0][0]}]).passes > 0
    assert gb.examine(net(), batches(), lambda y, t: 0.0).passes > 0
    assert gb.examine(net(), [3], forward=lambda b: torch.zeros(b, 2)).passes > 0
    assert gb.examine(nn.Linear(4, 3), batches(), nn.CrossEntropyLoss()).healthy
    assert gb.examine(net(), select="momentum").checked == ("GB103",)
    assert "GB103" not in gb.examine(net(), ignore=["GB103"]).checked
