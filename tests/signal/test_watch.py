"""How a watch behaves: it leaves no trace, never breaks training, and records what it says."""

from __future__ import annotations

import copy
import gc
import io
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import RecordError, Run
from gammabeta.signal.stages import LAYER_STAGES
from tests.signal.recorded import fill_the_disk
from tests.signal.watched import (
    PLACES,
    drawn,
    frames_of,
    hooks,
    measured,
    network,
    train,
    watch,
)

# Many steps here are closed without a pass, on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing was measured:RuntimeWarning"),
    pytest.mark.usefixtures("torch_is_left_as_it_was"),
]


# No trace.


@pytest.mark.parametrize("raises", [False, True])
def test_the_model_trains_to_the_same_bits(path: Path, raises: bool) -> None:
    results = []
    for watched in (False, True):
        model = network()
        model[0].register_forward_hook(lambda *_: None)  # a person's own
        before = hooks(model)
        torch.manual_seed(3)
        if not watched:
            losses = train(model)
        else:
            try:
                with watch(model, path) as signal:
                    assert hooks(model) != before
                    losses = train(model, signal)
                    if raises:
                        raise InterruptedError
            except InterruptedError:
                pass
        assert hooks(model) == before
        assert all(module.training for module in model.modules())
        results.append((losses, copy.deepcopy(model.state_dict()), torch.get_rng_state()))
    (losses, state, rng), (watched_losses, watched_state, watched_rng) = results
    assert watched_losses == losses
    assert list(watched_state) == list(state)
    assert all(torch.equal(watched_state[k], state[k]) for k in state)
    assert torch.equal(watched_rng, rng)
    assert len(frames_of(path)) == 3


def test_watching_changes_no_gradient(path: Path) -> None:
    model = network().eval()
    model.train()
    model[3].p = 0.0
    model(drawn(16, 5)).square().mean().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model = network()
    model[3].p = 0.0
    with watch(model, path):
        x = drawn(16, 5).requires_grad_()
        model(x).square().mean().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
    assert x.grad is not None


def test_closing_twice(path: Path) -> None:
    model = network()
    signal = watch(model, path)
    train(model, signal, 1)
    signal.close("interrupted")
    signal.close("finished")
    assert sum(hooks(model)) == 0
    with Run(path.with_suffix(".sqlite")) as run:
        assert run.status() == "interrupted"
    with pytest.raises(RecordError, match="is closed"):
        signal.step(loss=1.0)


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "finished"), (KeyboardInterrupt, "interrupted"), (ZeroDivisionError, "failed")],
    ids=str,
)
def test_how_it_ended(path: Path, error: type[BaseException] | None, status: str) -> None:
    model = network()

    def work() -> None:
        with watch(model, path) as signal:
            train(model, signal, 2)
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()
    with Run(path.with_suffix(".sqlite")) as run:
        assert run.status() == status
        assert len(list(run.frames())) == 2
    assert sum(hooks(model)) == 0


@pytest.mark.parametrize(
    "model", [None, "resnet", network().state_dict()], ids=["None", "name", "state"]
)
def test_not_a_module(path: Path, model: Any) -> None:
    with pytest.raises(TypeError, match=r"^model is a (NoneType|str|OrderedDict); .*Module"):
        watch(model, path)
    assert not path.with_suffix(".sqlite").exists()


# Copies.


def clone(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    ("duplicate", "when"),
    [
        (copy.deepcopy, "before"),
        (copy.deepcopy, "between"),
        (copy.deepcopy, "within"),
        (clone, "before"),
        (clone, "between"),
    ],
)
def test_a_copy_is_not_watched(path: Path, duplicate: Callable[..., nn.Module], when: str) -> None:
    model = network()
    twins: list[nn.Module] = []
    if when == "within":  # while a forward pass is being captured
        model[2].register_forward_hook(
            lambda *_: twins.append(duplicate(model)) if not twins else None
        )
    torch.manual_seed(0)
    with watch(model, path) as signal:
        if when == "before":
            twins.append(duplicate(model))
        train(model, signal, 1)
        if when == "between":
            twins.append(duplicate(model))
        state = {k: v.clone() for k, v in model.state_dict().items()}
        (twin,) = twins
        train(twin, steps=4)  # the copy trains, alone
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
        train(model, signal, 2)
        assert signal.steps == 3
    assert [f.step for f in frames_of(path)] == [1, 2, 3]
    first, *others = measured(path)
    assert set(first) == PLACES
    # Parameters and running statistics are measured in some frames only, everything else in all.
    always = {place for place in PLACES if place[1] in LAYER_STAGES}
    assert all(PLACES >= set(frame) >= always for frame in others)
    # and it can be watched itself
    with watch(twin, path.with_name("twin")) as signal:
        train(twin, signal, 2)
    assert len(frames_of(path.with_name("twin"))) == 2


# The disk.


def test_a_full_disk_warns_once_and_training_goes_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_the_disk(monkeypatch, pages=18)
    expected = train_alone(steps=25)
    model = network()
    torch.manual_seed(3)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with watch(model, path) as signal:
            losses = []
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for step in range(25):
                loss = model(drawn(16, 5, seed=step)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
                signal.record.flush()
                losses.append(loss.item())
    assert losses == expected
    (warning,) = caught
    assert warning.category is RuntimeWarning
    assert str(warning.message) == (
        f"recording stopped, training continues: {path}.sqlite: database or disk is full"
    )
    assert warning.filename == __file__  # the person's line, not ours
    monkeypatch.undo()
    steps = [f.step for f in frames_of(path)]
    assert steps == list(range(1, len(steps) + 1))
    assert 1 <= len(steps) < 25


def train_alone(steps: int) -> list[float]:
    model = network()
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        loss = model(drawn(16, 5, seed=step)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


class Normed(nn.Module):
    """A part with a forward of its own around a norm of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(5, 5), nn.BatchNorm1d(5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.linear(x)))


def test_a_pass_is_let_go_without_the_garbage_collector(path: Path) -> None:
    """Tensors in a cycle would stay until it runs, and a large network would fill the memory."""
    model = nn.Sequential(Normed(), Normed(), gb.BatchNorm1d(5, activation="relu"), Normed())
    outputs: list[weakref.ref[Tensor]] = []

    def note(_: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        outputs.append(weakref.ref(output))

    for layer in model:
        layer.register_forward_hook(note)
    gc.collect()
    gc.disable()
    try:
        with watch(model, path, every=1) as signal:
            train(model, signal, 3)
            alive = [output for output in outputs if output() is not None]
    finally:
        gc.enable()
    assert len(outputs) == 3 * len(model)
    assert not alive
