"""Rules GB301 to GB313: both directions, and what a clinic must never do to a training."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import optimizer as optim
from torch.utils.checkpoint import checkpoint

import gammabeta as gb
from gammabeta.doctor import RULES, Clinic, TrainingRule, Watched


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 6)
    return x, (x[:, 0] > 0).long()


class Training:
    """A model with its optimizer and its clinic."""

    def __init__(self, model: nn.Module | None = None, codes: str = "GB30 GB31") -> None:
        self.model = net() if model is None else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.05)
        self.clinic = Clinic(self.model, self.optimizer, codes.split())
        self.handles = [
            self.model.register_forward_pre_hook(self.clinic.before, with_kwargs=True),
            self.model.register_forward_hook(
                lambda m, a, k, y: self.clinic.after(m, a, k, y, False), with_kwargs=True
            ),
        ]
        self.number = 0

    def step(self, *calls: Callable[[], Tensor]) -> None:
        for call in calls or (self.loss,):
            call().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.number += 1
        self.clinic.step(self.number)

    def loss(self) -> Tensor:
        x, y = batch()
        return F.cross_entropy(self.model(x), y)

    def codes(self) -> dict[str, str]:
        self.clinic.close()
        assert self.clinic.notes == []
        return {f.code: f.severity for f in self.clinic.findings}


def test_training_in_eval_names_the_step() -> None:
    run = Training()
    run.step()
    run.model.eval()
    run.step()
    assert run.codes() == {"GB301": "error"}
    assert run.clinic.findings[0].step == 2
    assert run.clinic.findings[0].layers == ("", "1")


def test_a_frozen_backbone_in_eval_is_healthy() -> None:
    run = Training()
    run.model.eval()
    run.model[:3].requires_grad_(False)
    for _ in range(3):
        run.step()
    assert run.codes() == {}


def test_an_inner_network_left_in_eval() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    run = Training(Wrapper())
    run.step()
    run.model.net.eval()
    run.step()
    assert run.codes() == {"GB301": "error"}


def test_norms_alone_in_eval_are_meant() -> None:
    run = Training()
    run.step()
    run.model[1].eval()
    run.step()
    assert run.codes() == {}


@pytest.mark.parametrize("grad", [False, True])
def test_evaluation_in_train_mode(grad: bool) -> None:
    run = Training()
    for _ in range(3):
        run.step()
    with torch.set_grad_enabled(grad):
        run.model(batch(40)[0])
    for _ in range(2):
        run.step()
    found = run.codes()
    assert found["GB302"] == "warning"
    assert found.get("GB303", "info") == "info"
    assert next(f for f in run.clinic.findings if f.code == "GB302").step == 4


def test_evaluation_after_the_last_step() -> None:
    run = Training()
    run.step()
    run.step()
    with torch.inference_mode():
        run.model(batch(40)[0])
    assert run.codes()["GB302"] == "warning"


def test_measuring_population_statistics_is_no_evaluation() -> None:
    run = Training()
    for _ in range(3):
        run.step()
        torch.optim.swa_utils.update_bn([batch()[0] for _ in range(2)], run.model)
        gb.calibrate(run.model, [batch()[0] for _ in range(2)])
        gb.examine(run.model, [batch()[0] for _ in range(2)], select=["GB1"])
    assert run.codes() == {}


def test_a_call_without_gradients_in_each_step() -> None:
    run = Training()
    for _ in range(4):
        with torch.no_grad():
            run.model(batch()[0])
        run.step()
    found = run.codes()
    assert found == {"GB303": "warning", "GB304": "info"}


@pytest.mark.parametrize("after", [False, True])
def test_a_second_call_on_the_same_batch(after: bool) -> None:
    run = Training()
    for _ in range(4):
        x, y = batch()
        loss = F.cross_entropy(run.model(x), y)
        if not after:
            run.model(x)
        run.step(lambda loss=loss: loss)  # type: ignore[misc]
        if after:
            run.model(x)
    assert run.codes() == {"GB304": "warning"}


@pytest.mark.parametrize("refilled", [False, True])
def test_a_buffer_that_is_refilled_is_another_input(refilled: bool) -> None:
    run = Training()
    buffer = torch.empty(16, 6)
    for i in range(5):
        x, y = batch()
        buffer.copy_(x)
        run.step(lambda y=y: F.cross_entropy(run.model(buffer), y))  # type: ignore[misc]
        if i in (1, 3):  # a validation, or the output is computed anew for a log
            if refilled:
                buffer.copy_(batch()[0])
            run.model(buffer)
    assert set(run.codes()) == {"GB302" if refilled else "GB304"}


def test_inference_tensors_are_inputs() -> None:
    run = Training()
    with torch.inference_mode():
        x = torch.randn(16, 6)
        run.model.eval()
        run.model(x)
        run.model(x)
    run.model.train()
    run.step()
    assert run.codes() == {}


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_the_whole_model(reentrant: bool) -> None:
    run = Training()

    def loss() -> Tensor:
        x, y = batch()
        y_ = checkpoint(run.model, x.requires_grad_(), use_reentrant=reentrant)
        return F.cross_entropy(y_, y)

    for _ in range(3):
        run.step(loss)
    assert run.codes() == {"GB304": "warning"}


def test_a_generator_that_feeds_another_network_is_healthy() -> None:
    run = Training()
    other = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    for _ in range(4):
        with torch.no_grad():
            run.model(batch()[0])
        other.step()
        run.step()
    assert run.codes() == {}


def test_weights_perturbed_through_data() -> None:
    run = Training()

    def perturbed() -> Tensor:
        for p in run.model.parameters():
            p.data.add_(0.01)
        return run.loss()

    for _ in range(3):
        run.step(run.loss, perturbed)
    assert run.codes() == {"GB305": "warning"}


def test_a_dummy_call_is_told_from_a_resumed_model() -> None:
    model = net()
    model(torch.zeros(4, 6))
    run = Training(model)
    assert run.codes() == {"GB306": "warning"}
    nn.init.normal_(model[1].bias)
    assert Training(model).codes() == {}


def test_a_frozen_norm_that_moves_and_a_momentum_encoder() -> None:
    for momentum in (False, True):
        run = Training()
        run.model[:2].requires_grad_(False)
        for _ in range(4):
            run.step()
            if momentum:
                run.model[1].bias.data.add_(0.01)
        assert run.codes() == ({} if momentum else {"GB307": "warning"})


@pytest.mark.parametrize("buffers", [False, True])
def test_an_average_made_while_watched(buffers: bool, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with gb.watch(model, tmp_path / "r", doctor=["GB308"]) as signal:
        average = copy.deepcopy(model)
        for _ in range(4):
            F.cross_entropy(model(batch()[0]), batch()[1]).backward()
            optimizer.step()
            signal.step()
            for a, p in zip(average.parameters(), model.parameters(), strict=True):
                a.data = a.data * 0.5 + p.data * 0.5
            for a, b in zip(average.buffers(), model.buffers(), strict=True):
                if buffers:
                    a.data.copy_(b)
    assert [f.code for f in signal.findings] == ([] if buffers else ["GB308"])


@pytest.mark.parametrize("mended", [False, True])
def test_stochastic_weight_averaging(mended: bool) -> None:
    model = net()
    average = torch.optim.swa_utils.AveragedModel(model)
    run = Training(model)
    for _ in range(3):
        run.step()
        average.update_parameters(model)
    if mended:
        torch.optim.swa_utils.update_bn([batch()[0]], average)
    average.eval()
    assert run.codes() == ({} if mended else {"GB309": "warning"})


@pytest.mark.parametrize(("size", "severity"), [(3, "warning"), (8, "info"), (16, None)])
def test_micro_batches(size: int, severity: str | None) -> None:
    run = Training()

    def loss() -> Tensor:
        x, y = batch(size)
        return F.cross_entropy(run.model(x), y)

    for _ in range(3):
        run.step(loss, loss)
    assert run.codes() == ({} if severity is None else {"GB310": severity})


def test_a_batch_with_nan() -> None:
    run = Training()
    run.step()
    x, y = batch()
    x[0, 0] = float("nan")
    run.step(lambda: F.cross_entropy(run.model(x), y))
    run.clinic.numbers(2, {})
    assert run.codes() == {"GB311": "error"}
    assert run.clinic.findings[0].step == 2
    assert run.clinic.watched.bad_step == 2


# What a clinic must never do


def hooks() -> int:
    return len(optim._global_optimizer_post_hooks)


def test_the_optimizer_hook_goes_with_the_clinic() -> None:
    before = hooks()
    clinic = Clinic(net())
    assert hooks() == before + 1
    clinic.close()
    assert hooks() == before
    clinic = Clinic(net())
    del clinic
    gc.collect()
    assert hooks() == before


def test_a_rule_that_fails_is_a_note() -> None:
    run = Training()

    class Broken(TrainingRule):
        def called(self, *_: Any) -> None:
            raise RuntimeError("broken")

    broken = Broken(Watched(run.model, run.clinic.watched.subject, None))
    run.clinic.verdicts.add(RULES.chosen(["GB301"])[0], broken)
    run.step()
    assert any("broken" in note for note in run.clinic.notes)


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("broken")


@pytest.mark.parametrize(
    "name",
    [
        *("_is_unusual", "_called", "_step", "_pass_by", "_plan", "_scan", "throttle.ends"),
        *("throttle.affords_unusual", "verdicts.collect", "verdicts.deliver", "_ledger.in_call"),
    ],
)
@pytest.mark.parametrize("observing", [True, False])
def test_no_fault_of_the_clinic_reaches_a_training(
    name: str, observing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Training()
    run.step()
    part, _, method = name.rpartition(".")
    monkeypatch.setattr(getattr(run.clinic, part) if part else run.clinic, method, broken)
    run.clinic._observing, run.clinic._copied = observing, True
    run.step(run.loss, run.loss)
    run.step()
    run.clinic.close()
    assert all("broken" in note for note in run.clinic.notes)


def test_a_callback_that_raises() -> None:
    run = Training()
    run.clinic.verdicts._on_finding = broken
    run.model.eval()
    with pytest.warns(RuntimeWarning, match="on_finding raised"):
        run.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.step()
    assert run.codes() == {"GB301": "error"}


def test_a_copied_or_pickled_model_is_not_watched(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": net(), "b": net()})  # its parts have hooks
    with gb.watch(model, tmp_path / "r", doctor=True) as signal:
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other["a"](batch()[0]).sum().backward()
        signal.step()
        assert signal._attendant is not None
        assert signal._attendant.notes == []  # type: ignore[attr-defined]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_saved_output_gives_no_warning(tmp_path: Path) -> None:
    run = Training()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.save(run.model(batch()[0]), tmp_path / "y")


def test_a_forward_pass_that_raises(tmp_path: Path) -> None:
    model = net()
    with gb.watch(model, tmp_path / "r", doctor=True) as signal:
        with pytest.raises(RuntimeError):
            model(torch.zeros(4, 5))
        model(batch()[0]).sum().backward()
        signal.step()
    assert signal.findings == []


def test_watching_changes_no_training(tmp_path: Path) -> None:
    states = []
    for doctor in (False, True):
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        torch.manual_seed(1)
        with gb.watch(model, tmp_path / str(doctor), doctor=doctor) as signal:
            for _ in range(4):
                optimizer.zero_grad()
                F.cross_entropy(model(batch()[0]), batch()[1]).backward()
                optimizer.step()
                signal.step()
        states.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in states), strict=True))
