"""The other tools of the library on adopted norms."""

import copy
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.conversion.adopt import is_adopted
from gammabeta.conversion.adopting import adopted, worth
from gammabeta.layers.standardized import standardized
from gammabeta.ops.cpu import support
from gammabeta.signal import Run
from tests.conversion import their_norms as theirs


@pytest.fixture(autouse=True)
def at_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "SMALL", {})
    monkeypatch.setattr(adopted, "_KNOWN", {})  # what was proved, with the sizes it is for
    monkeypatch.setattr(worth, "_LEAST", dict.fromkeys(worth._LEAST, (0, 0, 0, 0)))


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        theirs.BatchNormAct2d(6),
        nn.Conv2d(6, 6, 3),
        theirs.LayerNorm2d(6),
        nn.Flatten(2),
        nn.Linear(16, 6),
        theirs.RMSNorm(6),
    )


def images(seed: int = 1) -> Tensor:
    return torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def both() -> tuple[Any, Any]:
    model = net()
    converted = gb.convert(copy.deepcopy(model))
    assert [is_adopted(module) for module in converted] == [
        isinstance(module, (theirs.BatchNormAct2d, theirs.LayerNorm2d, theirs.RMSNorm))
        for module in converted
    ]
    return model, converted


def test_calibrate() -> None:
    found = []
    for model in both():
        model.train()
        gb.calibrate(model, [images(1), images(2)])
        found.append({name: t.clone() for name, t in model.state_dict().items()})
    for name, want in found[0].items():
        torch.testing.assert_close(found[1][name], want, rtol=1e-5, atol=1e-5)


def test_freeze_and_unfreeze() -> None:
    model, converted = both()
    for one in (model, converted):
        one.train()
        gb.freeze(one)
        one.train()
        assert not one[1].training
        one(images())
    torch.testing.assert_close(converted(images()), model(images()), rtol=1e-5, atol=1e-5)
    assert torch.equal(converted[1].running_mean, torch.zeros(6))
    copied = copy.deepcopy(converted)
    assert not gb.unfreeze(copied).training or copied[1].training
    gb.revert(converted)
    assert type(converted[1]) is theirs.BatchNormAct2d
    gb.unfreeze(converted)
    assert converted[1].training


def test_watch(tmp_path: Path) -> None:
    tables = []
    for number, model in enumerate(both()):
        with gb.watch(model, tmp_path / str(number), every=1) as signal:
            for seed in range(3):
                model.zero_grad()
                loss = model(images(seed)).square().mean()
                loss.backward()
                signal.step(loss=loss.detach())
        with Run(tmp_path / f"{number}.sqlite") as run:
            tables.append((run.probes(), run.table()))
    (probes, want), (its_probes, got) = tables
    assert its_probes == probes
    assert len(want["step"]) > 20  # stages of seven layers in three frames
    assert want.keys() == got.keys()
    orders = [numpy.lexsort((t["stage"], t["name"], t["step"])) for t in (want, got)]
    for name in want.keys() - {"seconds"}:
        its, mine = want[name][orders[0]], got[name][orders[1]]
        if its.dtype.kind == "f":
            # Quantiles and shares of values that round differently in float32.
            numpy.testing.assert_allclose(mine, its, rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            assert (mine == its).all(), name


def test_standardized_shows_x_hat() -> None:
    model, converted = both()
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(standardized(converted[6], x), standardized(model[6], x))


def test_families_are_as_before() -> None:
    model, converted = both()
    reports: list[Any] = []
    for one in (model, converted):
        one.append(nn.BatchNorm1d(6))
        gb.convert(one, to="layer", report=reports.append)
    assert [left.names for left in reports[0].left] == [left.names for left in reports[1].left]
    assert [change.names for change in reports[1].changes] == [("7",)]
