from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.lab.measures import noisy
from tests.lab.measures.untouched import untouched


def drawn(seed: int = 0, examples: int = 4000, units: int = 500) -> tuple[Tensor, Tensor]:
    with noisy(nn.Sequential(nn.BatchNorm1d(3)), seed=seed) as noise:
        return noise.draw(examples, units)


def test_the_distributions_are_the_papers() -> None:
    s, m = (part.double() for part in drawn())
    unit_shift, unit_factor = m.mean(0), s.mean(0)
    # Means over 4,000 examples are off by 0.1/√4000 = 0.0016 (s) and less (m): four times that.
    assert unit_shift.abs().max() < 0.5 + 0.0064
    assert unit_factor.min() > 1 - 0.0064
    assert unit_factor.max() < 1.25 + 0.0064
    # Uniform over 500 units: the mean within 4σ/√500, the extremes within a few of 500 of the ends.
    assert unit_shift.mean().abs() < 4 * (1 / 12**0.5) / 500**0.5
    assert (unit_factor.mean() - 1.125).abs() < 4 * (0.25 / 12**0.5) / 500**0.5
    assert unit_shift.min() < -0.48
    assert unit_shift.max() > 0.48
    assert unit_factor.min() < 1.01
    assert unit_factor.max() > 1.24
    # Within a unit: U(±0.1) about its shift, N(·, 0.1) about its factor.
    assert (m - unit_shift).abs().max() < 0.1 + 0.0064
    assert (m - unit_shift).std() == pytest.approx(0.1 / 3**0.5, rel=0.01)
    assert (s - unit_factor).std() == pytest.approx(0.1, rel=0.01)
    assert (s - unit_factor).abs().max() > 0.4  # a normal one has tails


@pytest.mark.parametrize(
    ("layer", "x", "examples", "units"),
    [
        (nn.BatchNorm1d(3), torch.randn(5, 3), (0,), (1,)),
        (nn.BatchNorm2d(3), torch.randn(5, 3, 4, 4), (0,), (1,)),
        (nn.LayerNorm(3), torch.randn(5, 7, 3), (0,), (2,)),
        (nn.Conv2d(2, 3, 1), torch.randn(5, 2, 4, 4), (0,), (1,)),
        (nn.Linear(2, 3), torch.randn(5, 2), (0,), (1,)),
    ],
    ids=["batch-1d", "batch-2d", "layer", "conv", "linear"],
)
def test_a_shift_is_of_an_example_and_a_unit(
    layer: nn.Module, x: Tensor, examples: tuple[int, ...], units: tuple[int, ...]
) -> None:
    model = nn.Sequential(layer)
    clean = model(x)
    with noisy(model, ["0"], seed=3) as noise:
        shifted = model(x)
        noise.generator.manual_seed(3)
        s, m = noise.draw(5, 3)
    shape = [1] * clean.dim()
    shape[examples[0]], shape[units[0]] = 5, 3
    assert torch.equal(shifted, s.reshape(shape) * clean + m.reshape(shape))


def test_every_step_draws_anew_from_the_seed_alone() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), torch.randn(8, 3)

    def steps(seed: int) -> list[Tensor]:
        with noisy(model, seed=seed):
            return [model(x).detach() for _ in range(2)]

    state = torch.get_rng_state()
    one, again, other = steps(0), steps(0), steps(1)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])


def test_evaluation_is_clean_unless_asked() -> None:
    model, x = nn.Sequential(nn.BatchNorm1d(3)).eval(), torch.randn(8, 3)
    clean = model(x)
    with noisy(model):
        assert torch.equal(model(x), clean)
    with noisy(model, in_evaluation=True):
        assert not torch.equal(model(x), clean)


def test_gradients_pass_through_the_factor() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4, bias=False)), torch.randn(8, 3)
    with noisy(model, ["0"]) as noise:
        model(x).sum().backward()
        noise.generator.manual_seed(0)
        s, _ = noise.draw(8, 4)
    # y_ij = s_ij Σ_k w_jk x_ik, so ∂ΣΣy/∂w_jk = Σ_i s_ij x_ik.
    torch.testing.assert_close(model[0].weight.grad, s.T @ x)


def test_an_error_inside_leaves_no_hook() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with untouched(model), pytest.raises(RuntimeError, match="as arranged"), noisy(model):
        raise RuntimeError("as arranged")


@pytest.mark.parametrize(
    ("model", "options", "kind", "message"),
    [
        ("net", {}, TypeError, "model is a str"),
        (nn.Linear(1, 1), {}, ValueError, "no normalization layer"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"layers": ["00"]}, ValueError, "layers='00' is not"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"layers": "0"}, TypeError, "give a list"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"scale": 0.5}, ValueError, "at least 1"),
        (nn.Sequential(nn.BatchNorm1d(3)), {"mean": float("nan")}, ValueError, "mean=nan"),
        (gb.BatchNorm1d(3, activation="relu"), {}, ValueError, "activation='relu' fused"),
    ],
)
def test_misuse_is_one_line(
    model: nn.Module, options: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        noisy(model, **options)  # type: ignore[arg-type]


def test_an_output_without_units_is_refused() -> None:
    model = nn.Sequential(nn.Flatten(0))
    with noisy(model, ["0"]), pytest.raises(ValueError, match="noise needs outputs"):
        model(torch.zeros(4, 2))
