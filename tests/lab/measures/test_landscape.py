from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.lab.measures import landscape
from tests.lab.measures.untouched import untouched


class Bowl(nn.Module):
    """L = ½ θᵀ A θ for any input."""

    def __init__(self, curvature: Tensor, start: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(start.clone())
        self.register_buffer("curvature", curvature)

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * self.theta @ self.curvature @ self.theta + 0 * x.sum()


NOTHING = (torch.zeros(1, dtype=torch.float64), None)


def value(output: Tensor, target: object) -> Tensor:
    return output


def bowl(seed: int = 0, size: int = 5) -> tuple[Bowl, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    theta = torch.randn(size, dtype=torch.float64, generator=generator)
    return Bowl(root @ root.T, theta), root @ root.T, theta


def test_a_quadratic_bowl_has_the_known_values() -> None:
    model, a, theta = bowl()
    factors, lr = (0.5, 1.0, 4.0), 0.03
    found = landscape(model, value, NOTHING, lr=lr, factors=factors)
    g = a @ theta
    assert found.loss == pytest.approx(float(0.5 * theta @ g), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(g.norm()), rel=1e-12)
    for factor, loss, distance in zip(factors, found.losses, found.distances, strict=True):
        moved = theta - factor * lr * g
        assert loss == pytest.approx(float(0.5 * moved @ a @ moved), rel=1e-12)
        assert distance == pytest.approx(factor * lr * float((a @ g).norm()), rel=1e-12)
    # The change of gradient over distance is ‖A ĝ‖ at every step: the curvature along g.
    assert found.smoothness == pytest.approx(float((a @ g).norm() / g.norm()), rel=1e-12)
    assert found.smoothness <= float(torch.linalg.eigvalsh(a).max()) * (1 + 1e-12)


def test_along_an_eigenvector_smoothness_is_the_curvature() -> None:
    a = torch.diag(torch.tensor([1.0, 7.0], dtype=torch.float64))
    model = Bowl(a, torch.tensor([0.0, 2.0], dtype=torch.float64))
    found = landscape(model, value, NOTHING, lr=0.1)
    assert found.smoothness == pytest.approx(7.0, rel=1e-12)
    # L(θ − ηg) = ½ 7 (1 − 7η)² 2²; on [0.05, 0.4] least nearest η = 1/7 (factor 1.5), most at 0.4.
    assert found.loss_range == pytest.approx((14 * 0.05**2, 14 * 1.8**2), rel=1e-9)
    assert found.gradient_range == pytest.approx((0.05 * 7 * 14, 0.4 * 7 * 14), rel=1e-9)


def test_the_gradient_agrees_with_finite_differences() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), gb.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    x, y = torch.randn(8, 3, dtype=torch.float64), torch.randint(2, (8,))
    found = landscape(model, F.cross_entropy, (x, y), lr=1e-4, factors=(1.0,))
    # L(θ − ηg) ≈ L − η‖g‖² + ½ η² gᵀHg with an error of the order of η³.
    assert found.loss - found.losses[0] == pytest.approx(1e-4 * found.gradient_norm**2, rel=1e-2)
    assert found.gradient_norm > 0.01
    # And ‖g‖² is the sum of squares of central differences.
    squares = 0.0
    for p in model.parameters():
        flat = p.data.view(-1)
        for index in range(flat.numel()):
            own, ends = flat[index].item(), []
            for sign in (1, -1):
                flat[index] = own + sign * 1e-6
                ends.append(F.cross_entropy(model(x), y).item())
            flat[index] = own
            squares += ((ends[0] - ends[1]) / 2e-6) ** 2
    assert found.gradient_norm == pytest.approx(math.sqrt(squares), rel=1e-6)


def odd_model() -> nn.Sequential:
    """Buffers that move, random numbers that are drawn, and one frozen parameter."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Linear(4, 8),
        gb.BatchRenorm1d(8, r_max=3.0, d_max=5.0),
        nn.Dropout(0.5),
        nn.Linear(8, 8),
        nn.BatchNorm1d(8),
        nn.Linear(8, 3),
    )
    model[0].bias.requires_grad_(False)
    model[5].weight.grad = torch.ones_like(model[5].weight)
    return model


BATCH = (torch.linspace(-1, 1, 64).reshape(16, 4), torch.arange(16) % 3)


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_model_changes(training: bool) -> None:
    model = odd_model().train(training)
    with untouched(model):
        landscape(model, F.cross_entropy, BATCH, lr=0.5)


@pytest.mark.parametrize("fatal", range(3))
def test_an_error_midway_changes_nothing(fatal: int) -> None:
    model, calls = odd_model(), []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls.append(model[3].weight.detach().clone())
        torch.rand(3)
        if len(calls) > fatal:
            raise RuntimeError("as arranged")
        return F.cross_entropy(output, target)

    with untouched(model), pytest.raises(RuntimeError, match="as arranged"):
        landscape(model, loss, BATCH, lr=0.5)
    if fatal:  # it was elsewhere when the error came
        assert not torch.equal(calls[-1], model[3].weight)


def test_every_point_sees_the_same_random_numbers() -> None:
    model, masks = odd_model(), []
    model[2].register_forward_hook(lambda module, args, output: masks.append(output == 0))
    landscape(model, F.cross_entropy, BATCH, lr=1e-6)
    assert len(masks) == 8
    assert all(torch.equal(mask, masks[0]) for mask in masks)


def test_a_zero_gradient_has_no_smoothness() -> None:
    model = Bowl(torch.eye(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64))
    found = landscape(model, value, NOTHING, lr=0.1)
    assert found.loss_range == (0.0, 0.0)
    assert math.isnan(found.smoothness)


def test_a_loss_that_overflows_is_a_result() -> None:
    model, _, _ = bowl()
    found = landscape(model, value, NOTHING, lr=1e200, factors=(1.0,))
    assert not math.isfinite(found.losses[0])
    assert not math.isfinite(found.loss_range[1])


def test_it_prints() -> None:
    model, _, _ = bowl()
    assert "effective smoothness" in str(landscape(model, value, NOTHING, lr=0.1))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"lr": 0.0}, ValueError, "lr: 0.0 must be a positive number"),
        ({"lr": math.nan}, ValueError, "lr: nan must be"),
        ({"factors": ()}, ValueError, "factors is empty"),
        ({"factors": (1, -1)}, ValueError, "factors: -1.0 must be"),
        ({"batch": torch.zeros(3)}, TypeError, r"batch must be a pair \(input, target\)"),
        ({"batch": (1, 2, 3)}, TypeError, "3 items"),
        ({"model": "bowl"}, TypeError, "model is a str"),
        ({"model": nn.ReLU()}, ValueError, "no parameter that requires a gradient"),
        ({"model": nn.LazyLinear(3)}, ValueError, "lazy module"),
        ({"loss": lambda y, t: 3.0}, TypeError, "loss returned a float"),
        ({"loss": lambda y, t: torch.ones(2)}, ValueError, r"loss returned shape \(2,\)"),
        ({"loss": lambda y, t: torch.ones(())}, ValueError, "depends on no parameter"),
    ],
)
def test_misuse_is_one_line(change: dict[str, object], kind: type[Exception], message: str) -> None:
    given: dict[str, object] = {"model": bowl()[0], "loss": value, "batch": NOTHING, "lr": 0.1}
    with pytest.raises(kind, match=message) as caught:
        landscape(**{**given, **change})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
