"""A training that the doctor looks at ends with the same bits, and leaves no hook in the model.

Every case of tests/signal/test_harmless*.py passes with ``doctor=True``, too; here are a few.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.signal.harmless import plain_step, unharmed
from tests.signal.public_models import PUBLIC
from tests.signal.test_harmless_habits import USES, classes, make


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.mark.parametrize("name", ["seresnet20_cifar10", "GPT-2", "BERT", "ConvNeXt"])
def test_public_models(name: str, path: Path) -> None:
    public = PUBLIC[name]
    unharmed(public.make, plain_step(public.loss), path, every=1, doctor=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("use", USES)
def test_a_model_that_is_used_in_between(use: Callable[[nn.Module], object], path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        if number in (3, 4):
            use(model)
        return plain_step(classes)(model, optimizer, number)

    unharmed(make, step, path, steps=8, every=1, doctor=True)


def broken(*_: object, **__: object) -> None:
    raise RuntimeError("a planted fault")


@pytest.mark.parametrize(
    "where", ["gammabeta.signal.capture.Capture.function", "gammabeta.signal.rows.Signal.of"]
)
def test_the_doctor_goes_where_measuring_fails(
    where: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, broken)
    public = PUBLIC["seresnet20_cifar10"]
    _, said = unharmed(public.make, plain_step(public.loss), path, every=1, doctor=True)
    assert [text for text in said if "a planted fault" in text]


def test_a_callback_that_raises(path: Path) -> None:
    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> Tensor:
        model.eval()  # which is a finding
        return plain_step(classes)(model, optimizer, number)

    _, said = unharmed(make, step, path, steps=6, every=1, doctor=True, on_finding=broken)
    assert [text for text in said if "on_finding" in text]
