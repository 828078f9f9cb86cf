"""A watch changes no bit of a training, whichever model and loop it watches."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

import gammabeta as gb
from tests.signal.harmless import STEPS, frames_of, plain_step, trace, train, unharmed, warned
from tests.signal.odd_models import (
    SMALL,
    Answer,
    Answers,
    Checkpointed,
    Hooked,
    Raises,
    Residual,
    classes,
    kept_scores,
)
from tests.signal.public_models import PUBLIC, Loss, Public, drawn, seeded

TROUBLE = ("could not be measured", "training continues")
"""What a warning says when a measurement failed."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def undisturbed(said: list[str]) -> bool:
    """Whether no measurement failed."""
    return not any(word in text for text in said for word in TROUBLE)


# Public models.

AT_THE_DEFAULTS = ["resnet18_wd4", "shufflenetv2_wd2", "GPT-2", "Llama", "T5"]
LOOPED = ["seresnet20_cifar10", "GPT-2", "ViT"]

FEWER = 9
"""Steps that have a frame of each kind: samples that begin at each of four places, the parameters
measured and not, the channels kept and not. The networks above take `STEPS`."""


@pytest.mark.parametrize("public", PUBLIC.values(), ids=str)
def test_every_step_is_a_frame(public: Public, path: Path) -> None:
    steps = STEPS if public.name in (*AT_THE_DEFAULTS, *LOOPED) else FEWER
    step, alike = plain_step(public.loss), (public.name, steps)
    frames, said = unharmed(public.make, step, path, alike=alike, steps=steps)
    assert undisturbed(said), said
    assert [frame.step for frame in frames] == list(range(1, steps + 1))
    assert all(len(frame.signals) > 10 for frame in frames)


@pytest.mark.parametrize("name", AT_THE_DEFAULTS)
def test_at_the_defaults(name: str, path: Path) -> None:
    public = PUBLIC[name]
    step, alike = plain_step(public.loss), (name, STEPS)
    frames, said = unharmed(public.make, step, path, alike=alike, arm="model")
    assert undisturbed(said), said
    assert frames
    assert frames[0].step == 1


# Training loops.


@pytest.mark.parametrize("name", LOOPED)
def test_accumulated_gradients(name: str, path: Path) -> None:
    public = PUBLIC[name]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        optimizer.zero_grad()
        total = torch.zeros(())
        for part in range(3):
            loss = public.loss(model, 3 * number + part) / 3
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        optimizer.step()
        return total

    frames, said = unharmed(public.make, step, path)
    assert undisturbed(said), said
    assert len(frames) == 20


@pytest.mark.parametrize("name", LOOPED)
def test_autocast(name: str, path: Path) -> None:
    public = PUBLIC[name]

    def loss(model: nn.Module, number: int) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return public.loss(model, number)

    frames, said = unharmed(public.make, plain_step(loss), path)
    assert undisturbed(said), said
    assert len(frames) == 20


def scaled_step(loss: Loss, scaler: torch.amp.GradScaler) -> Any:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        optimizer.zero_grad()
        value = loss(model, number)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        return value.detach()

    return step


@pytest.mark.parametrize("name", LOOPED)
def test_gradients_are_recorded_unscaled(name: str, path: Path) -> None:
    public = PUBLIC[name]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=7)
    initial = copy.deepcopy(scaler.state_dict())

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number == 0:
            scaler.load_state_dict(initial)
        value: Tensor = scaled_step(public.loss, scaler)(model, optimizer, number)
        return value

    scaled, said = unharmed(public.make, step, path, told={"scaler": scaler})
    assert undisturbed(said), said
    step, alike = plain_step(public.loss), (name, STEPS)
    plain, _ = unharmed(public.make, step, path.with_name("plain"), alike=alike)
    # The scale doubles after every seventh step; a power of two changes no bit of a gradient.
    for frame, other in zip(scaled, plain, strict=True):
        assert frame.signals.keys() == other.signals.keys()
        for probe, summary in frame.signals.items():
            expected = other.signals[probe].gradient
            assert (summary.gradient is None) == (expected is None)
            if expected is not None:
                assert summary.gradient == pytest.approx(expected, rel=1e-4)
    assert any(s.gradient for s in scaled[0].signals.values())


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("name", ["GPT-2", "ViT", "blocks"])
def test_activation_checkpointing(name: str, reentrant: bool, path: Path) -> None:
    if name == "blocks":
        make, loss = seeded(lambda: Checkpointed(reentrant)), classes

    else:
        public = PUBLIC[name]
        loss = public.loss

        def make() -> nn.Module:
            model = public.make()
            model.activation_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
            if reentrant:
                # Reentrant checkpointing needs an input that requires a gradient.
                model.enable_input_require_grads()  # type: ignore[operator]
            return model

    frames, said = unharmed(make, plain_step(loss), path)
    assert undisturbed(said), said
    assert len(frames) == 20
    assert all(len(frame.signals) > 5 for frame in frames)


# Other models.


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "ignore:RNN module weights")
@pytest.mark.parametrize("name", SMALL)
def test_odd_models(name: str, path: Path) -> None:
    frames, said = unharmed(seeded(SMALL[name]), plain_step(classes), path)
    assert len(frames) == 20, said


@pytest.mark.parametrize(
    "wrap",
    [
        lambda scores: None,
        lambda scores: {"scores": scores, "name": "dict"},
        lambda scores: (scores, [scores.detach()], None),
        Answer,
        lambda scores: 3.0,
    ],
    ids=["None", "dict", "tuple", "dataclass", "number"],
)
def test_any_output(wrap: Callable[[Tensor], Any], path: Path) -> None:
    frames, said = unharmed(seeded(lambda: Answers(wrap)), plain_step(kept_scores), path)
    assert undisturbed(said), said
    assert [frame.step for frame in frames] == list(range(1, 21))
    assert all(len(frame.signals) >= 4 for frame in frames)


@pytest.mark.parametrize("retried", [True, False])
def test_a_forward_that_raises_is_caught(retried: bool, path: Path) -> None:
    def step(model: Raises, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number % 3 == 1:
            model.raising = True
            with pytest.raises(InterruptedError):
                classes(model, number)
            model.raising = False
            if not retried:
                return torch.zeros(())
        return plain_step(classes)(model, optimizer, number)

    frames, said = unharmed(seeded(Raises), step, path)  # type: ignore[arg-type]
    assert undisturbed(said), said
    expected = [n + 1 for n in range(20) if retried or n % 3 != 1]
    assert [frame.step for frame in frames] == expected


@pytest.mark.parametrize("raises", ["in the loss", "in backward", "in the optimizer"])
def test_a_step_that_is_given_up(raises: str, path: Path) -> None:
    """An out-of-memory error, say, is caught, and the loop goes on with the next mini-batch."""

    def fail(*_: object) -> None:
        raise InterruptedError

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number % 4 != 2:
            return plain_step(classes)(model, optimizer, number)
        optimizer.zero_grad()
        with contextlib.suppress(InterruptedError):
            loss = classes(model, number)
            if raises == "in the loss":
                fail()
            if raises == "in backward":
                model.get_parameter("first.weight").register_hook(fail)
            loss.backward()  # type: ignore[no-untyped-call]
            fail()
        for parameter in model.parameters():
            if parameter._backward_hooks:
                parameter._backward_hooks.clear()
        return torch.zeros(())

    frames, said = unharmed(seeded(Residual), step, path)
    assert undisturbed(said), said
    assert len(frames) >= 15


# Calls that go around the module.


def test_functional_call(path: Path) -> None:
    """The loss of perturbed parameters, beside the pass that is recorded."""

    def loss(model: nn.Module, step: int) -> Tensor:
        x = drawn(16, 6, seed=step)
        moved = {name: p * 1.01 for name, p in model.named_parameters()}
        far = functional_call(model, moved, (x,))
        return classes(model, step) + F.cross_entropy(far, torch.arange(16) % 4)

    # torch's own functional_call does not give a module back that has two names.
    make = seeded(lambda: Residual(shared=False))
    frames, said = unharmed(make, plain_step(loss), path)
    assert undisturbed(said), said
    assert len(frames) == 20


def test_transforms_of_torch_func(path: Path) -> None:
    """Gradients an example by vmap over grad, applied by hand."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        parameters = dict(model.named_parameters())

        def one(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
            return F.cross_entropy(functional_call(model, values, (x[None],)), y[None])

        x, y = drawn(16, 6, seed=number), torch.arange(16) % 4
        values = {name: p.detach() for name, p in parameters.items()}
        each = vmap(grad(one), in_dims=(None, 0, 0))(values, x, y)
        for name, parameter in parameters.items():
            parameter.grad = each[name].mean(0)
        optimizer.step()
        return torch.stack([g.square().sum() for g in each.values()]).sum().detach()

    def make() -> nn.Module:
        return nn.Sequential(
            *(nn.Linear(6, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 6), nn.Tanh()),
            nn.Linear(6, 4),
        )

    unharmed(seeded(make), step, path)  # there may be no frame, and a warning


def test_double_backward(path: Path) -> None:
    """A penalty on the gradient of the input."""

    def loss(model: nn.Module, step: int) -> Tensor:
        x = drawn(16, 6, seed=step).requires_grad_()
        value = F.cross_entropy(model(x), torch.arange(16) % 4)
        (slope,) = torch.autograd.grad(value, x, create_graph=True)
        return value + slope.square().sum()

    frames, said = unharmed(seeded(Residual), plain_step(loss), path)
    assert undisturbed(said), said
    assert len(frames) == 20


def test_several_passes_before_one_backward(path: Path) -> None:
    """Siamese passes, one under no_grad, one in evaluation in between."""

    def loss(model: nn.Module, step: int) -> Tensor:
        with torch.no_grad():
            target = model(drawn(16, 6, seed=500 + step))
        model.eval()
        model(drawn(16, 6, seed=900 + step))
        model.train()
        value = classes(model, step)
        return value + (model(drawn(16, 6, seed=100 + step)) - target).square().mean()

    frames, said = unharmed(seeded(Residual), plain_step(loss), path)
    assert undisturbed(said), said
    assert len(frames) == 20


def test_a_graph_that_is_kept(path: Path) -> None:
    """backward twice through one graph."""

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        optimizer.zero_grad()
        loss = classes(model, number)
        loss.backward(retain_graph=True)  # type: ignore[no-untyped-call]
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    frames, said = unharmed(seeded(Residual), step, path)
    assert undisturbed(said), said
    assert len(frames) == 20


# Copies.


def duplicated(how: str, value: Any) -> Any:
    if how == "deepcopy":
        return copy.deepcopy(value)
    if how == "pickle":
        return pickle.loads(pickle.dumps(value))
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("when", ["before the first step", "after three steps"])
@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_trains_unwatched(how: str, when: str, path: Path) -> None:
    model = seeded(Residual)()
    step = plain_step(classes)
    with warned() as said, gb.watch(model, path) as signal:
        if when == "after three steps":
            train(model, step, signal, 3)
        twin, other = duplicated(how, (model, signal))
        twin.load_state_dict(seeded(Residual)().state_dict())
        assert "inert" in repr(other)
        other.step(loss=1.0)
        other.close()
        found = train(twin, step)
        steps = signal.steps
    assert undisturbed(said), said
    plain = seeded(Residual)()
    expected = train(plain, step)
    assert found.losses == expected.losses
    assert found.state == expected.state
    assert found.rng == expected.rng
    assert steps == (3 if when == "after three steps" else 0)
    assert len(frames_of(path)) == steps


# A measurement that fails.


def broken(*_: object, **__: object) -> Any:
    raise ZeroDivisionError("a planted fault")


INTERNAL = {
    "a function in forward": "gammabeta.signal.capture.Capture.function",
    "a sample in forward": "gammabeta.signal.rows.Signal.of",
    "a gradient in backward": "gammabeta.signal.rows.Signal.take_gradient",
    "the parameters before": "gammabeta.signal.parameters.Inventory.begin",
    "the parameters after": "gammabeta.signal.parameters.Inventory.end",
    "the summary": "gammabeta.signal.frame.columns_of",
}
"""A part of each place where measuring can fail."""


@pytest.mark.parametrize("name", ["seresnet20_cifar10", "GPT-2"])
@pytest.mark.parametrize("where", sorted(INTERNAL))
def test_a_measurement_that_fails(
    name: str, where: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on to the same bits; one warning has the reason; nothing else is left."""
    public = PUBLIC[name]
    monkeypatch.setattr(INTERNAL[where], broken)
    _, said = unharmed(public.make, plain_step(public.loss), path)
    (reason,) = said
    assert "a planted fault" in reason
    assert "training continues" in reason


# No trace.


@pytest.mark.parametrize("name", ["seresnet20_cifar10", "GPT-2"])
def test_no_trace_after_close(name: str, path: Path) -> None:
    public = PUBLIC[name]
    model = public.make()
    before, keys = trace(model), list(model.state_dict())
    children = [name for name, _ in model.named_modules()]
    signal = gb.watch(model, path)
    assert list(model.state_dict()) == keys
    train(model, plain_step(public.loss), signal, 3)
    assert list(model.state_dict()) == keys
    assert [name for name, _ in model.named_modules()] == children
    signal.close()
    assert trace(model) == before
    assert list(model.state_dict()) == keys


@pytest.mark.parametrize("when", ["in the middle of a pass", "before backward", "after backward"])
def test_closed_within_a_step(when: str, path: Path) -> None:
    """Nothing is left of a watch that is closed between the parts of a step."""
    model = seeded(Hooked)()
    before = trace(model)
    signal = gb.watch(model, path)
    train(model, plain_step(classes), signal, 2)
    if when == "in the middle of a pass":
        handle = model.get_submodule("block").register_forward_hook(lambda *_: signal.close())
    loss = classes(model, 3)
    if when == "in the middle of a pass":
        handle.remove()
    if when == "before backward":
        signal.close()
    loss.backward()  # type: ignore[no-untyped-call]
    signal.close()
    assert trace(model) == before
    assert len(frames_of(path)) == 2
