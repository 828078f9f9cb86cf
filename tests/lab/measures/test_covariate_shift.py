from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.lab.measures import covariate_shift
from tests.lab.measures.untouched import untouched


def half_square(y: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (y - target).square().sum()


def linear_pair(seed: int = 0) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False)).double()
    x, t = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    return model, (x, t)


def test_a_two_layer_linear_net_by_hand() -> None:
    model, (x, t) = linear_pair()
    w1, w2 = (layer.weight.detach() for layer in model)
    lr = 0.07
    residual = x @ w1.T @ w2.T - t
    g1 = w2.T @ residual.T @ x
    g2 = residual.T @ (x @ w1.T)
    moved = w1 - lr * g1
    g2_after = (x @ moved.T @ w2.T - t).T @ (x @ moved.T)
    first, second = covariate_shift(model, half_square, (x, t), lr=lr).layers
    assert (first.name, second.name) == ("0", "1")
    assert (first.distance, first.cosine) == (0.0, pytest.approx(1.0, rel=1e-12))
    assert first.before == first.after == pytest.approx(float(g1.norm()), rel=1e-12)
    assert second.before == pytest.approx(float(g2.norm()), rel=1e-12)
    assert second.after == pytest.approx(float(g2_after.norm()), rel=1e-12)
    assert second.distance == pytest.approx(float((g2 - g2_after).norm()), rel=1e-12)
    angle = (g2 * g2_after).sum() / (g2.norm() * g2_after.norm())
    assert second.cosine == pytest.approx(float(angle), rel=1e-12)


def by_definition(
    model: nn.Sequential, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """G and G′ of every linear of a sequential, by really stepping and rewinding."""
    x, y = batch
    state = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
    g = {
        name: part.grad.clone() for name, part in model.named_parameters() if part.grad is not None
    }
    g = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer.step()
    after = {name: value.clone() for name, value in model.state_dict().items()}
    found = {}
    for index, layer in enumerate(model):
        if not isinstance(layer, nn.Linear):
            continue
        for name, value in model.named_parameters():
            below = int(name.partition(".")[0]) < index
            value.data.copy_(after[name] if below else state[name])
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        own = [f"{index}.weight", f"{index}.bias"]
        now = dict(model.named_parameters())
        found[str(index)] = (
            torch.cat([g[name].flatten() for name in own]),
            torch.cat([now[name].grad.flatten() for name in own]),  # type: ignore[union-attr]
        )
    model.load_state_dict(state)
    return found


def normalized_net() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Linear(4, 8),
        gb.BatchNorm1d(8, activation="relu"),
        nn.Linear(8, 8),
        gb.LayerNorm(8),
        nn.Tanh(),
        nn.Linear(8, 3),
    ).double()


BATCH = (torch.linspace(-1, 1, 64).double().reshape(16, 4).sin(), torch.arange(16) % 3)


@pytest.mark.parametrize("kind", ["sgd", "momentum", "adam"])
def test_an_optimizer_steps_as_it_would(kind: str) -> None:
    make = {
        "sgd": lambda p: torch.optim.SGD(p, lr=0.3),
        "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        "adam": lambda p: torch.optim.Adam(p, lr=0.05),
    }[kind]
    model = normalized_net()
    optimizer = make(model.parameters())
    for _ in range(3):  # so that there is a state
        optimizer.zero_grad()
        F.cross_entropy(model(BATCH[0]), BATCH[1]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    before = str(optimizer.state_dict())
    with untouched(model):
        shift = covariate_shift(model, F.cross_entropy, BATCH, optimizer=optimizer)
    assert str(optimizer.state_dict()) == before
    if kind == "sgd":
        alike = covariate_shift(model, F.cross_entropy, BATCH, lr=0.3)
        for mine, theirs in zip(alike.layers, shift.layers, strict=True):
            # θ − lr·g: torch's optimizer may round once where two operators round twice.
            assert astuple(mine)[1:] == pytest.approx(astuple(theirs)[1:], rel=1e-12, abs=1e-15)
    expected = by_definition(model, optimizer, BATCH)
    assert [layer.name for layer in shift.layers] == list(expected)
    for name, (g, g_after) in expected.items():
        assert shift[name].distance == pytest.approx(float((g - g_after).norm()), rel=1e-9)
        assert shift[name].after == pytest.approx(float(g_after.norm()), rel=1e-9)
    assert shift["2"].distance > 1e-3


def test_an_error_midway_changes_nothing() -> None:
    model, calls = normalized_net(), []
    model[0].weight.grad = torch.ones_like(model[0].weight)

    def loss(output: Tensor, target: Tensor) -> Tensor:
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("as arranged")
        return F.cross_entropy(output, target)

    with untouched(model), pytest.raises(RuntimeError, match="as arranged"):
        covariate_shift(model, loss, BATCH, lr=0.3)


class Backwards(nn.Module):
    """Calls its layers against the order in which they are registered."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.Linear(4, 3)
        self.early = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.late(self.early(x).tanh())
        return y


def test_below_is_called_before() -> None:
    model = Backwards().double()
    early, late = covariate_shift(model, F.cross_entropy, BATCH, lr=0.5).layers
    assert (early.name, late.name) == ("early", "late")
    assert early.distance == 0
    assert late.distance > 0


def test_a_module_that_is_read_and_not_called_is_where_its_parent_is() -> None:
    torch.manual_seed(0)
    attention = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    batch = (BATCH[0].reshape(2, 8, 4), torch.zeros(2, 8, 4).double())
    names = [layer.name for layer in covariate_shift(attention, F.mse_loss, batch, lr=0.1).layers]
    assert sorted(names[:2]) == ["self_attn", "self_attn.out_proj"]
    assert names[2:] == ["linear1", "linear2"]


def test_layers_can_be_named() -> None:
    model = normalized_net()
    (layer,) = covariate_shift(model, F.cross_entropy, BATCH, lr=0.3, layers=["3"]).layers
    assert layer.name == "3"
    assert layer.distance > 0


def test_a_layer_without_a_part_has_no_angle() -> None:
    model = Backwards().double()
    shift = covariate_shift(model, lambda y, t: 0 * y.sum(), BATCH, lr=0.5)
    assert shift["late"].before == 0
    assert math.isnan(shift["late"].cosine)


def test_it_prints_and_offers_the_nearest_name() -> None:
    shift = covariate_shift(Backwards().double(), F.cross_entropy, BATCH, lr=0.5)
    assert str(shift).splitlines()[1].startswith("early")
    with pytest.raises(ValueError, match="did you mean 'early'"):
        shift["erly"]


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({}, ValueError, "give exactly one of lr= and optimizer="),
        ({"lr": -1.0}, ValueError, "lr=-1.0 must be a positive number"),
        ({"lr": 0.1, "layers": ["erly"]}, ValueError, "did you mean 'early'"),
        ({"lr": 0.1, "layers": "early"}, TypeError, "give a list"),
        ({"lr": 0.1, "model": nn.BatchNorm1d(4).double()}, ValueError, "no module with a weight"),
        (
            {"optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.1)},
            ValueError,
            "optimizer holds no trainable parameter",
        ),
    ],
)
def test_misuse_is_one_line(change: dict[str, object], kind: type[Exception], message: str) -> None:
    given: dict[str, object] = {"model": Backwards().double(), "loss": F.cross_entropy}
    with pytest.raises(kind, match=message):
        covariate_shift(**{"batch": BATCH, **given, **change})  # type: ignore[arg-type]


def test_a_layer_without_trainable_parameters_is_refused() -> None:
    model = Backwards().double()
    model.early.requires_grad_(False)
    with pytest.raises(ValueError, match="'early' has no parameter that requires a gradient"):
        covariate_shift(model, F.cross_entropy, BATCH, lr=0.1, layers=["early"])
