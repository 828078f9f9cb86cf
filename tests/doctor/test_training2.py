"""GB314–GB320: what they find, and where they stay silent."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.doctor import Finding
from gammabeta.doctor.rule import RULES
from gammabeta.doctor.subject import Subject
from gammabeta.doctor.training.clinic import Watched
from gammabeta.doctor.training.nonfinite import origin_in_forward, tensors
from gammabeta.doctor.training.passes import Step
from gammabeta.signal.attending import Recorded

CODES = [f"GB{number}" for number in range(314, 321)]
Train = Callable[..., list[Finding]]


class Run:
    """Rules that are given losses and frames by hand."""

    def __init__(self, model: nn.Module | None = None) -> None:
        model = model or nn.Linear(2, 2)
        self.watched = Watched(model, Subject(model), None)
        self.rules = [RULES[code].check(self.watched) for code in CODES]
        self.found: list[Finding] = []
        self.codes: list[str] = []
        self.number = 0

    def _ask(self, method: str, *args: Any) -> None:
        for code, rule in zip(CODES, self.rules, strict=True):
            for each in getattr(rule, method)(*args) or ():
                if each not in self.found:  # a clinic tells of a finding once
                    self.found.append(each)
                    self.codes.append(code)

    def loss(self, loss: float, rate: float = 0.1, frame: Mapping[Any, Any] | None = None) -> None:
        """One step."""
        self.number += 1
        self.watched.steps = self.number
        self._ask("step", Step(self.number, [], {}, {}, 1, (rate,)))
        self.watched.course.add_loss(self.number, loss)
        self._ask("numbers", self.number, {"loss": loss})
        if frame is not None:
            recorded = Recorded(self.number, frame)
            self.watched.course.add_frame(recorded)
            self._ask("frame", recorded)

    def end(self) -> list[str]:
        """End the run; return the codes above information."""
        self._ask("end")
        found = zip(self.codes, self.found, strict=True)
        return [code for code, each in found if each.severity != "info"]


def weights(update: float, gradient: float = 0.1, rows: int = 3) -> dict[Any, Any]:
    """A frame of some layers whose weights move by ``update``."""
    nan = {"mean": 0.0, "std": 1.0}
    found: dict[Any, Any] = {}
    for i in range(rows):
        found[f"{i}", "z"] = {**nan, "norm": math.nan, "gradient": gradient, "update": math.nan}
        found[f"{i}", "weight"] = {**nan, "norm": 1.0, "gradient": gradient, "update": update}
    return found


def noise(seed: int, number: int) -> list[float]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(number, generator=generator).tolist()


# The learning rate


def test_a_loss_that_rises_with_large_updates() -> None:
    run = Run()
    for i in range(12):
        run.loss(2.0**i, frame=weights(0.6))
    assert run.end() == ["GB314"]
    assert run.found[0].step == 3  # the first loss above twice the first one


@pytest.mark.parametrize("update", [0.01, math.nan])
def test_a_loss_that_rises_slowly_with_small_updates(update: float) -> None:
    run = Run()
    for i in range(60):  # the generator of a GAN, or a penalty's warm-up
        run.loss(0.7 + 0.07 * i, frame=weights(update))
    assert run.end() == []


def test_a_jump_at_the_start_that_is_made_up_for() -> None:
    run = Run()
    for i in range(60):
        run.loss(2.3 if not i else 12.0 / i + 0.3, frame=weights(0.3 / (i + 1)))
    assert run.end() == []


def test_a_plateau_after_updates_that_replace_the_weights() -> None:
    run = Run()
    for i in range(40):
        run.loss(2.3 if not i else 2.31, frame=weights(0.9 if i < 2 else 1e-3))
    assert run.end() == ["GB314"]


def test_hard_data_are_no_fault() -> None:
    run = Run()
    for extra in noise(0, 80):
        run.loss(2.3 + 0.2 * extra, frame=weights(0.02))
    assert run.end() == []


def test_negative_losses() -> None:
    run = Run()
    for i in range(80):
        run.loss(-0.5 * i, frame=weights(0.05))
    assert run.end() == []


def test_a_rate_that_is_raised_and_ruins_what_was_learned() -> None:
    run = Run()
    for i in range(100):
        run.loss(2.3 * 0.95**i if i < 50 else 9.0, rate=0.1 if i < 50 else 3.0)
    assert run.end() == ["GB314"]
    assert run.found[0].step == 51


# Spikes


def test_a_spike() -> None:
    run = Run()
    for i, extra in enumerate(noise(1, 120)):
        run.loss(6.0 if 80 <= i < 84 else 2.3 * 0.97**i + 0.05 * extra)
    assert run.end() == ["GB315"]
    assert run.found[0].step == 81
    assert "comes back" in run.found[0].cause


@pytest.mark.parametrize("seed", range(5))
def test_the_noise_of_batches_of_one(seed: int) -> None:
    run = Run()
    for x in noise(seed, 2000):
        run.loss(-math.log(1 - 0.999 * x))  # exponential: long tail
    assert run.end() == []


def test_one_outlier_is_no_spike() -> None:
    run = Run()
    for i, extra in enumerate(noise(2, 100)):
        run.loss(1.0 + extra if i != 60 else 4.5)
    assert run.end() == []


def test_a_bump_of_a_warm_restart() -> None:
    run = Run()
    for i, extra in enumerate(noise(3, 200)):
        run.loss(2.3 * 0.97 ** (i % 100) * (0.6 if i >= 100 else 1) + 0.3 + 0.1 * extra)
    assert run.end() == []


# NaN


class Divides(nn.Module):
    """Divides by its largest value."""

    def forward(self, x: Tensor) -> Tensor:
        return x / x.abs().amax(1, keepdim=True)


def trained(
    path: Path,
    model: nn.Module,
    step: Callable[[int], Tensor],
    optimizer: torch.optim.Optimizer | None = None,
    steps: int = 12,
) -> list[Finding]:
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.01)
    with gb.watch(model, path / "run", optimizer=optimizer, doctor=CODES) as signal:
        for i in range(steps):
            loss = step(i)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            signal.step(loss=loss)
    assert signal._attendant is not None
    assert signal._attendant.notes == []  # type: ignore[attr-defined]
    return signal.findings


def test_nan_in_a_module_without_parameters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), Divides(), nn.Linear(8, 2))

    def step(i: int) -> Tensor:
        if i == 8:
            with torch.no_grad():
                model[1].weight.zero_()
                model[1].bias.zero_()
        loss: Tensor = model(torch.randn(16, 4)).square().mean()
        return loss

    (found,) = trained(tmp_path, model, step)
    assert (found.code, found.layer, found.step) == ("GB316", "3", 9)


def test_the_look_for_the_origin_leaves_no_trace() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), Divides(), nn.Linear(3, 1))
    norm = model[0]
    mean, version = norm.running_mean.clone(), norm.running_mean._version  # type: ignore[operator, union-attr]
    x = torch.randn(6, 3)
    x[2] = 0
    state = torch.get_rng_state()
    model[0].eval()
    origin = origin_in_forward(model, (x,), {})
    assert origin is not None
    assert (origin.path, origin.kind) == ("2", "NaN")
    assert torch.equal(norm.running_mean, mean)  # type: ignore[arg-type]
    assert norm.running_mean._version == version
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(m._forward_hooks for m in model.modules())


def test_weights_that_an_update_made_nan(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))

    def step(i: int) -> Tensor:
        y = model(torch.randn(8, 4))
        return (y - y.detach()).square().sum().sqrt() if i == 5 else y.square().mean()

    (found,) = trained(tmp_path, model, step)
    assert (found.code, found.layers, found.step) == ("GB316", ("2", "0"), 6)
    assert "gradient" in found.cause


def test_a_loss_that_is_nan_by_itself(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)

    def step(i: int) -> Tensor:
        y = torch.full((8,), -100 if i == 7 else 1)
        return F.cross_entropy(model(torch.randn(8, 4)), y)

    (found,) = trained(tmp_path, model, step)
    assert (found.code, found.layer, found.step) == ("GB316", "", 8)
    assert "loss" in found.cause


def test_nan_of_the_input_is_another_rules(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)

    def step(i: int) -> Tensor:
        loss: Tensor = model(torch.full((8, 4), math.nan if i == 7 else 1.0)).mean()
        return loss

    assert trained(tmp_path, model, step) == []


def test_logits_that_are_masked(tmp_path: Path) -> None:
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).masked_fill(torch.tensor([False, False, True]), -torch.inf)

    model = Masked(4, 3)
    y = torch.zeros(8, dtype=torch.long)
    assert trained(tmp_path, model, lambda i: F.cross_entropy(model(torch.randn(8, 4)), y)) == []


def test_tensors_inside_outputs() -> None:
    x = torch.zeros(1)
    nested = {"a": [x, (x, None, "text")], "b": {"c": x}, "n": torch.ones(1, dtype=torch.long)}
    assert len(list(tensors(nested))) == 3
    assert list(tensors(None)) == []
    assert len(list(tensors([x] * 100))) == 16


# Gradients


def gradients(*norms: float, update: float = 1e-7) -> dict[Any, Any]:
    found = weights(update, rows=len(norms))
    for i, norm in enumerate(norms):
        found[f"{i}", "z"]["gradient"] = norm
    return found


def test_gradients_that_vanish() -> None:
    run = Run()
    for i in range(12):
        run.loss(1.0, frame=gradients(1e-9, 1e-7, 1e-4, 0.1, 1.0) if i in (0, 4, 9) else None)
    assert run.end() == ["GB317"]
    assert run.found[0].layers == ("1", "0")
    assert run.found[0].step == 1


def test_gradients_that_begin_tiny_and_grow() -> None:
    run = Run()
    for i in range(12):  # behind a head that was initialized to zero
        tiny = 1e-8 * i
        run.loss(1.0, frame=gradients(tiny, tiny, tiny, tiny, 1.0, update=1e-2))
    assert run.end() == []


def test_an_optimizer_that_makes_up_for_small_gradients() -> None:
    run = Run()
    for _ in range(12):
        run.loss(1.0, frame=gradients(2e-5, 1e-3, 1e-2, 0.1, 1.0, update=1e-3))
    assert run.end() == []


def test_gradients_that_explode() -> None:
    run = Run()
    frame = {**gradients(1e6, 1e5, 1e3, 20, 10)}
    frame["0", "weight"]["gradient"] = 1e5
    for _ in range(5):
        run.loss(1e5, frame=frame)
    assert run.end() == ["GB318"]
    assert run.found[0].layer == "0"


def test_large_gradients_that_are_clipped() -> None:
    run = Run()
    for _ in range(5):
        run.loss(1.0, frame=gradients(1e6, 1e5, 1e3, 20, 10, update=1e-3))
    assert run.end() == []


def test_a_norm_after_small_inputs() -> None:
    run = Run()  # the gradient of z is large, that of the weights is not
    for _ in range(5):
        run.loss(1.0, frame=gradients(1e4, 1, 1, 1, 1, update=1e-3))
    assert run.end() == []


# Dead layers


def activation(zeros: float, mean: float, std: float) -> dict[Any, Any]:
    base = {"gradient": 0.1, "update": math.nan, "norm": math.nan, "sampled": 512.0, "dead": zeros}
    inside = {**base, "mean": mean, "std": std, "zeros": 0.0, "minimum": -1.0, "maximum": 1.0}
    after = {**inside, "zeros": 512 * zeros, "minimum": 0.0, "mean": 0.0, "std": 0.0}
    return {("0", "z"): inside, ("0", "activation"): after, ("1", "z"): inside}


@pytest.mark.parametrize(
    ("zeros", "mean", "std", "expected"),
    [
        (1.0, -9.0, 1.0, ["GB319"]),
        (0.9, -1.0, 1.0, []),  # sparse
        (1.0, 0.0, 0.0, []),  # a branch whose γ was initialized to zero
    ],
)
def test_dead_layers(zeros: float, mean: float, std: float, expected: list[str]) -> None:
    run = Run()
    for _ in range(12):
        run.loss(1.0, frame=activation(zeros, mean, std))
    assert run.end() == expected


# Updates


def model_of(*frozen: int) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    for i in frozen:
        model[i].requires_grad_(False)
    return model


def fitted(path: Path, model: nn.Module, parameters: Any) -> list[Finding]:
    x = torch.randn(32, 4)
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    return trained(path, model, lambda i: model(x).square().mean(), optimizer)


def test_a_layer_that_is_not_in_the_optimizer(tmp_path: Path) -> None:
    model = model_of()
    (found,) = fitted(tmp_path, model, [*model[0].parameters(), *model[4].parameters()])
    assert (found.code, found.layers, found.severity) == ("GB320", ("2",), "warning")


def test_an_optimizer_of_another_model(tmp_path: Path) -> None:
    (found,) = fitted(tmp_path, model_of(), model_of().parameters())
    assert (found.code, found.layer, found.severity) == ("GB320", "", "error")


def test_a_backbone_that_is_left_out(tmp_path: Path) -> None:
    model = model_of()
    (found,) = fitted(tmp_path, model, model[4].parameters())
    assert (found.code, found.severity) == ("GB320", "info")


def test_frozen_layers(tmp_path: Path) -> None:
    model = model_of(0, 2)
    assert fitted(tmp_path, model, model[4].parameters()) == []


@pytest.mark.parametrize("frozen", [True, False])
def test_layers_that_are_not_trained_do_not_stand_still(frozen: bool, tmp_path: Path) -> None:
    model = model_of(*((0, 2) if frozen else ()))
    x, y = torch.randn(32, 4), torch.randint(2, (32,))
    optimizer = torch.optim.SGD(model[4].parameters(), lr=1e-3)
    found = trained(tmp_path, model, lambda i: F.cross_entropy(model(x), y), optimizer, 25)
    assert [f.severity for f in found] == ([] if frozen else ["info"])


@pytest.mark.parametrize(("rates", "expected"), [(lambda i: 0.0, ["GB320"]), (lambda i: i, [])])
def test_a_rate_of_zero(rates: Callable[[int], float], expected: list[str]) -> None:
    run = Run()
    for i in range(25):
        run.loss(1.0, rate=rates(i), frame=weights(0.0))
    assert run.end() == expected


def test_a_rate_that_is_too_small() -> None:
    run = Run()
    for _ in range(40):
        run.loss(1.0, rate=1e-9, frame=weights(1e-9))
    assert run.end() == ["GB320"]


def test_a_model_that_has_converged() -> None:
    run = Run()
    for _ in range(40):
        run.loss(1e-3, frame=weights(1e-8, gradient=1e-7))
    assert run.end() == []
