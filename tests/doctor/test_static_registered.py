"""Norms that are no submodules, or are made in forward: GB108, GB109."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from tests.doctor.static_models import (
    BATCHES,
    Held,
    of,
    severities,
)

# GB108


class Plain:
    def __init__(self, norm: nn.Module) -> None:
        self.norm = norm

    def __call__(self, x: Tensor) -> Any:
        return self.norm(x)


@pytest.mark.parametrize(
    "hold",
    [
        lambda norm: [norm],
        lambda norm: (norm,),
        lambda norm: {"a": norm},
        lambda norm: {"a": [norm]},
        lambda norm: [nn.Sequential(nn.ReLU(), norm)],
        lambda norm: lambda x: norm(x),
        lambda norm: lambda x, norm=norm: norm(x),
        lambda norm: functools.partial(norm),
        lambda norm: norm.forward,
        lambda norm: Plain(norm),
    ],
)
def test_norms_that_are_not_submodules_are_found(hold: Any) -> None:
    (found,) = of("GB108", Held(hold(nn.BatchNorm1d(8))))
    assert (found.severity, found.layer) == ("error", "")


def test_unregistered_norms_are_found_as_class_attribute_global_and_assigned_past_torch() -> None:
    class Shared(Held):
        norm = nn.BatchNorm1d(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)  # type: ignore[no-any-return]

    class Global(Held):
        def forward(self, x: Tensor) -> Tensor:
            return _GLOBAL(x)  # type: ignore[no-any-return]

    hidden = Held(None)
    object.__setattr__(hidden, "held", nn.BatchNorm1d(8))
    assert severities("GB108", Shared(nn.Identity())) == ["error"]
    assert severities("GB108", Global(nn.Identity())) == ["error"]
    assert severities("GB108", nn.Sequential(hidden)) == ["error"]


_GLOBAL = nn.BatchNorm1d(8)


def test_batches_find_unregistered_norms_that_no_attribute_leads_to() -> None:
    cache: dict[str, nn.Module] = {}

    class Cached(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return made(x.shape[1])(x)

    def made(features: int) -> nn.Module:
        key = f"norm{features}"
        if key not in globals()["_CACHE"]:
            cache[key] = _CACHE[key] = nn.BatchNorm1d(features)
        return _CACHE[key]

    model = nn.Sequential(nn.Linear(8, 8), Cached())
    model(BATCHES[0])
    found = of("GB108", model, batches=BATCHES)
    assert [each.severity for each in found] == ["error"]
    assert found[0].layer == "1"
    assert not of("GB109", model, batches=BATCHES)


_CACHE: dict[str, nn.Module] = {}


def test_registering_mends_the_model() -> None:
    model = Held([nn.BatchNorm1d(8)]).eval()
    assert model.held[0].training
    report = gb.examine(model, select=["GB108"])
    repair = report.findings[0].repair
    assert repair is not None
    repair(model)
    assert "held.0.running_mean" in model.state_dict()
    assert not model.held[0].training
    assert not of("GB108", model)


def test_an_examination_leaves_hidden_norms_as_they_were() -> None:
    model = Held([nn.BatchNorm1d(8)])
    gb.examine(model, BATCHES)
    assert int(model.held[0].num_batches_tracked) == 0


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(8),
        nn.ModuleList([nn.BatchNorm1d(8)]),
        [nn.LayerNorm(8, elementwise_affine=False)],
        [nn.ReLU()],
    ],
)
def test_registered_norms_and_norms_without_state_are_fine(norm: Any) -> None:
    assert not of("GB108", Held(norm))
    assert not of("GB108", Held(norm), batches=BATCHES)


def test_globals_that_only_the_construction_mentions_are_fine() -> None:
    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.held, self._GLOBAL = nn.Linear(8, _GLOBAL.num_features), nn.Identity()

        def forward(self, x: Tensor) -> Any:
            return self._GLOBAL(self.held(x))

    assert not of("GB108", Wrapper())


def test_teachers_parents_and_leftovers_are_fine() -> None:
    teacher = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)).eval().requires_grad_(False)
    assert not of("GB108", Held([teacher]))
    child = Held(nn.BatchNorm1d(8))
    parent = nn.Sequential(child, nn.BatchNorm1d(8))
    child.parent = [parent]
    assert not of("GB108", parent)
    assert not of("GB108", child)
    leftover = Held(nn.BatchNorm1d(8))
    leftover.before_conversion = [nn.BatchNorm1d(8)]
    assert severities("GB108", leftover) == ["info"]
    assert not of("GB108", leftover, batches=BATCHES)


# GB109


class Anew(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return self.normalized(x)

    def normalized(self, x: Tensor) -> Any:
        return nn.Sequential(nn.BatchNorm1d(x.shape[1]), nn.ReLU())(x)


class AnewInstance(nn.Module):
    def forward(self, x: Tensor) -> Any:
        norm = nn.InstanceNorm1d(4)
        return norm(nn.LayerNorm(x.shape[-1:], elementwise_affine=False)(x))


class AnewLayer(nn.Module):
    def forward(self, x: Tensor) -> Any:
        self.norm = nn.LayerNorm(x.shape[-1])
        return self.norm(x)


class Lazily(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm: nn.Module | None = None

    def forward(self, x: Tensor) -> Any:
        if self.norm is None:
            norm = nn.BatchNorm1d(x.shape[1])
            self.norm = norm
        if isinstance(self.norm, nn.BatchNorm1d) and self.norm.eps > 1:
            raise ValueError("eps")
        return self.norm(x)


class Off(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.makes = False

    def forward(self, x: Tensor) -> Any:
        if self.makes and x.dim() > 1:
            return nn.BatchNorm1d(8)(x)
        return x


class FromFactory(nn.Module):
    """Its forward names things differently, and makes norms by a class it was given."""

    def __init__(me, once: bool, norm_layer: Any = nn.BatchNorm1d) -> None:
        super().__init__()
        me.norm_layer, me.once = norm_layer, once
        me.norm = norm_layer(8) if once else None

    def forward(me, x: Tensor) -> Any:
        norm = me.norm if me.once else me.norm_layer(x.shape[1])
        return norm(x)


def factory(features: int) -> nn.Module:
    return nn.BatchNorm1d(features)


class Built(nn.Module):
    """Makes its norm by a method and a function, once."""

    def __init__(self) -> None:
        super().__init__()
        self.built = False

    def build(self, features: int) -> None:
        self.norm = factory(features)
        self.built = True

    def forward(self, x: Tensor) -> Any:
        if not self.built:
            self.build(x.shape[1])
        return self.norm(x)


def test_conditions_that_the_model_decides_are_followed() -> None:
    assert severities("GB109", FromFactory(False)) == ["error"]
    assert not of("GB109", FromFactory(True))
    assert not of("GB109", Built())


def test_norms_made_in_forward_are_found_in_source_and_on_batches() -> None:
    for kwargs in ({}, {"batches": BATCHES}):
        (found,) = of("GB109", nn.Sequential(nn.Linear(8, 8), Anew()), **kwargs)
        assert (found.severity, found.layer) == ("error", "1")
        assert severities("GB109", AnewLayer(), **kwargs) == ["warning"]
    hidden: dict[str, Any] = {"nn": nn}
    exec("def forward(self, x): return nn.BatchNorm1d(8)(x)", hidden)  # without source
    sourceless = type("Sourceless", (nn.Module,), {"forward": hidden["forward"]})()
    assert severities("GB109", sourceless, batches=BATCHES) == ["error"]
    assert severities("GB109", sourceless, batches=BATCHES[:1]) == ["error"]
    assert not of("GB108", sourceless, batches=BATCHES)


@pytest.mark.parametrize("model", [AnewInstance(), Lazily(), Off()])
def test_norms_made_once_or_without_state_are_fine(model: nn.Module) -> None:
    assert not of("GB109", model)
    assert not of("GB109", model, batches=[torch.randn(4, 4, 8).mean(1) for _ in range(2)])
    assert not of("GB108", model, batches=[torch.randn(4, 4, 8).mean(1) for _ in range(2)])
