"""What cannot be watched, measured or recorded is named, and costs no training."""

from __future__ import annotations

import copy
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import Cadence, Record, RecordError, Run
from tests.signal.watched import (
    drawn,
    frames_of,
    hooks,
    network,
    scalars_of,
    train,
    watch,
)

# Many steps here are closed without a pass, on purpose.
pytestmark = [
    pytest.mark.filterwarnings("ignore:nothing was measured:RuntimeWarning"),
    pytest.mark.usefixtures("torch_is_left_as_it_was"),
]


def test_two_models_cannot_share_an_arm(tmp_path: Path) -> None:
    with Record(tmp_path / "shared") as record, watch(nn.Linear(2, 2), record, arm="a"):
        with pytest.raises(ValueError, match="arm='a' already exists in this record"):
            watch(nn.Linear(2, 2), record, arm="a")
        watch(nn.Linear(2, 2), record, arm="b").close()
    with Run(record.path) as run:
        assert list(run.arms().values()) == ["a", "b"]


class Loss(nn.Module):
    """Is used through a method of its own, not by being called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 2)

    def loss(self, x: Tensor) -> Tensor:
        return self.linear(x).square().mean()


@pytest.mark.filterwarnings("default:nothing was measured")
@pytest.mark.parametrize(
    ("model", "use", "words"),
    [
        (Loss(), Loss.loss, "was not called since the last step"),
        (nn.Linear(5, 2).eval(), nn.Module.__call__, r"the model is in eval\(\)"),
        (nn.Softmax(1), nn.Module.__call__, "no function with weights was called"),
    ],
    ids=["not called", "evaluation", "no layer"],
)
def test_a_watch_that_measures_nothing_says_why_once(
    path: Path, model: nn.Module, use: Callable[..., Tensor], words: str
) -> None:
    with watch(model, path) as signal:
        use(model, drawn(16, 5))
        with pytest.warns(RuntimeWarning, match=words):
            signal.step()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            signal.step()


def test_a_signal_that_cannot_be_measured_costs_no_training(path: Path) -> None:
    model = nn.Sequential(
        nn.Linear(3, 4, dtype=torch.complex64), nn.Linear(4, 2, dtype=torch.complex64)
    )
    x = drawn(8, 3).to(torch.cfloat)
    expected = model(x)
    with watch(model, path) as signal:
        assert torch.equal(model(x), expected)
        with pytest.warns(RuntimeWarning, match="0: complex tensors cannot be measured"):
            signal.step(loss=1.0)
    assert frames_of(path) == []
    assert len(scalars_of(path)) == 1


def test_a_loss_that_is_not_one_number_is_refused_and_no_step(path: Path) -> None:
    with watch(network(), path) as signal:
        with pytest.raises(ValueError, match=r"loss has shape \(3,\); give one number"):
            signal.step(loss=torch.ones(3))
        assert signal.steps == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"model": 5}, "model is a int; give a torch.nn.Module"),
        ({"model": nn.Linear}, "model is a type; give a torch.nn.Module"),
        ({"record": 5}, "record is a int; give a path or a gammabeta.Record"),
        ({"record": None}, "record is a NoneType; give a path or a gammabeta.Record"),
        ({"record": b"run"}, "record is a bytes; give a path or a gammabeta.Record"),
        ({"arm": 3}, "arm is a int; give a name, such as 'model'"),
        ({"arm": None}, "arm is a NoneType; give a name, such as 'model'"),
        ({"cadence": 5}, "cadence is a int; give a gammabeta.Cadence"),
        ({"cadence": Cadence}, "cadence is a type; give a gammabeta.Cadence"),
        ({"title": 5}, "title is a int; give text"),
        ({"settings": 5}, "settings is a int; give a dict"),
        ({"settings": "lr=1"}, "settings is a str; give a dict"),
    ],
)
def test_an_argument_of_the_wrong_type(path: Path, arguments: dict[str, Any], said: str) -> None:
    model = network()
    before = hooks(model)
    with pytest.raises(TypeError) as caught:
        watch(**{"model": model, "record": path, **arguments})
    assert str(caught.value) == said
    assert hooks(model) == before
    assert list(path.parent.iterdir()) == []


def test_settings_that_are_too_deep(path: Path) -> None:
    settings: dict[str, Any] = {}
    for _ in range(100_000):
        settings = {"a": settings}
    with pytest.raises(TypeError, match="settings cannot be stored as JSON"):
        watch(network(), path, settings=settings)
    while settings:
        settings = settings["a"]
    assert list(path.parent.iterdir()) == []


class Odd:
    def __float__(self) -> float:
        raise ValueError("no number")


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("x", TypeError, "loss is a str; give one number, such as loss.item()"),
        ("1.5", TypeError, "loss is a str; give one number, such as loss.item()"),
        (b"1", TypeError, "loss is a bytes; give one number"),
        (1j, TypeError, "loss is a complex; give one number"),
        (torch.tensor(1j), TypeError, "loss is a complex; give one number"),
        (object(), TypeError, "loss is a object; give one number"),
        (Odd(), TypeError, "loss is a Odd; give one number"),
        ([1.0], TypeError, "loss is a list; give one number"),
        (np.array("x"), TypeError, "loss is a str; give one number"),
        (10**400, ValueError, "loss is too large for a float; give math.inf instead"),
        (torch.ones(2), ValueError, "loss has shape (2,); give one number, such as its mean"),
        (torch.ones(0), ValueError, "loss has shape (0,); give one number, such as its mean"),
        (np.ones((2, 1)), ValueError, "loss has shape (2, 1); give one number, such as its mean"),
        (torch.ones((), device="meta"), ValueError, "loss is on the meta device"),
    ],
)
def test_a_scalar_that_is_no_number(
    path: Path, value: Any, error: type[Exception], said: str
) -> None:
    with watch(network(), path) as signal:
        with pytest.raises(error, match=f"^{re.escape(said)}"):
            signal.step(loss=value)
        with pytest.raises(error, match=f"^{re.escape(said.replace('loss', 'accuracy', 1))}"):
            signal.step(loss=1.0, accuracy=value)
        assert signal.steps == 0
    assert scalars_of(path) == []


def test_a_scalar_that_is_none_is_named(path: Path) -> None:
    with watch(network(), path) as signal, pytest.raises(TypeError, match=r"^accuracy is a None"):
        signal.step(accuracy=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [math.inf, -math.inf, math.nan, 1, True, np.float32(2), np.array([2.0]), torch.tensor([[2]])],
)
def test_a_loss_that_is_not_finite_never_ends_a_training(path: Path, value: Any) -> None:
    with watch(network(), path) as signal:
        signal.step(loss=value)
        signal.step(loss=torch.as_tensor(value))
    expected = float(np.asarray(value).item())
    assert [str(s.value) for s in scalars_of(path)] == [str(expected)] * 2


def test_the_home_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent))
    with watch(network(), "~/runs/first") as signal:
        assert signal.record.path == path.parent / "runs/first.sqlite"
    with Run("~/runs/first.sqlite") as run:
        written = gb.export(run, "~/page.html")
    assert written == path.parent / "page.html"
    with pytest.raises(RecordError, match="names no home folder"):
        watch(network(), "~nobody-here/first")


def test_a_module_that_cannot_be_asked_what_it_is_does_not_end_the_training(tmp_path: Path) -> None:
    class Odd(nn.LayerNorm):
        def __getattribute__(self, name: str) -> Any:
            if name == "parameters":
                raise OSError("not here")
            return super().__getattribute__(name)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1

    model = nn.Sequential(nn.Linear(4, 4), Odd(4))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, tmp_path / "a") as signal:
            for _ in range(3):
                model(torch.randn(2, 4)).sum().backward()
                signal.step(loss=1.0)
    (message,) = {str(w.message) for w in said}  # once, with the true reason
    assert message.startswith("a signal could not be measured, training continues")
    assert "not here" in message
    assert [s.value for s in scalars_of(tmp_path / "a")] == [1.0, 1.0, 1.0]


def test_a_gradient_that_cannot_be_measured_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is sharded where its signal is not."""

    def fails(*_: object) -> float:
        raise RuntimeError("got mixed torch.Tensor and DTensor")

    monkeypatch.setattr("gammabeta.signal.rows.Signal.take_gradient", fails)
    model = network()
    twin = copy.deepcopy(model)
    torch.manual_seed(3)  # of the dropout
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with watch(model, tmp_path / "run") as signal:
            losses = train(model, signal)
    (message,) = {str(w.message) for w in said}
    assert message.startswith("a signal could not be measured, training continues")
    assert "got mixed torch.Tensor and DTensor" in message
    torch.manual_seed(3)
    assert losses == train(twin)
