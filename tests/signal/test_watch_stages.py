"""What a watch measures, stage by stage, against the same network written out in float64.

Each network is computed twice: by its modules, watched, in float32; and by formulas here, in
float64, with every stage a tensor of its own, so that autograd gives every stage's gradient.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.signal import Run, axis, watch
from gammabeta.signal.stages import STAGES
from gammabeta.signal.summary import SATURATION, Summary

Layers = list[dict[str, Tensor]]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator)


def dressed(model: nn.Module) -> nn.Module:
    """Weights that leave every stage its own mean and scale."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
            if name.endswith("weight") and parameter.dim() > 1:
                parameter.mul_(2 / parameter[0].numel() ** 0.5)
    return model


def standard(x: Tensor, dims: tuple[int, ...], eps: float = 1e-5) -> Tensor:
    mean = x.mean(dims, keepdim=True)
    return (x - mean) / ((x - mean).square().mean(dims, keepdim=True) + eps).sqrt()


def along(parameter: Tensor, x: Tensor, dim: int) -> Tensor:
    shape = [1] * x.dim()
    shape[dim] = -1
    return parameter.reshape(shape)


def scaled(norm: nn.Module, x_hat: Tensor, dim: int) -> Tensor:
    y = x_hat * along(norm.weight, x_hat, dim)  # type: ignore[arg-type]
    bias = getattr(norm, "bias", None)
    return y if bias is None else y + along(bias, x_hat, dim)


# The networks. Each function returns its layers' stages, in the order of the rows, and the output.


def mlp(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    layers: Layers = []
    for linear, norm, activation in ((m[0], m[1], torch.tanh), (m[3], m[4], torch.relu)):
        z = u @ linear.weight.T + linear.bias
        x_hat = standard(z, (0,))
        y = scaled(norm, x_hat, 1)
        u = activation(y)
        layers.append({"z": z, "normalized": x_hat, "affine": y, "activation": u})
    output = u @ m[6].weight.T + m[6].bias
    return [*layers, {"z": output}], output


def make_mlp() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Tanh()),
        *(nn.Linear(7, 6), gb.BatchNorm1d(6), nn.ReLU()),
        nn.Linear(6, 3),
    )


def in_place(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    layers: Layers = []
    z = F.conv2d(u, m[0].weight, m[0].bias, padding=1)
    x_hat = standard(z, (0, 2, 3))
    y = scaled(m[1], x_hat, 1)
    a = y.clamp(min=0)
    layers.append({"z": z, "normalized": x_hat, "affine": y, "activation": a})
    z = F.conv2d(a, m[3].weight, m[3].bias)
    x_hat = standard(z.reshape(len(z), 2, -1), (2,)).reshape(z.shape)
    y = scaled(m[4], x_hat, 1)
    a = F.gelu(y)
    layers.append({"z": z, "normalized": x_hat, "affine": y, "activation": a})
    z = F.conv2d(a, m[6].weight, m[6].bias)
    a = z.clamp(min=0)
    layers.append({"z": z, "activation": a})
    output = a.flatten(1) @ m[9].weight.T + m[9].bias
    return [*layers, {"z": output}], output


def make_in_place() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
        *(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.GELU()),
        *(nn.Conv2d(6, 3, 1), nn.ReLU(inplace=True)),
        *(nn.Flatten(), nn.Linear(27, 3)),
    )


class Residual(nn.Module):
    """A fused block: activation(norm(z) + skip)."""

    def __init__(self, norm: nn.Module, keyword: bool) -> None:
        super().__init__()
        self.inward, self.linear, self.norm = nn.Linear(5, 6), nn.Linear(6, 6), norm
        self.head = nn.Linear(6, 2)
        self.keyword = keyword

    def forward(self, x: Tensor) -> Tensor:
        skip = self.inward(x)
        z = self.linear(skip)
        y = self.norm(z, residual=skip) if self.keyword else self.norm(z, skip)
        return self.head(y)


def residual(m: Residual, x: Tensor) -> tuple[Layers, Tensor]:
    skip = x @ m.inward.weight.T + m.inward.bias
    z = skip @ m.linear.weight.T + m.linear.bias
    if isinstance(m.norm, nn.LayerNorm):
        x_hat, dim = standard(z, (1,)), -1
    elif isinstance(m.norm, nn.RMSNorm):
        x_hat, dim = z / (z.square().mean(1, keepdim=True) + torch.finfo().eps).sqrt(), -1
    elif isinstance(m.norm, nn.GroupNorm):
        x_hat, dim = standard(z.reshape(-1, 2, 3), (2,)).reshape(z.shape), 1
    else:
        x_hat, dim = standard(z, (0,)), 1
    y = scaled(m.norm, x_hat, dim)
    entering = y + skip
    a = torch.sigmoid(entering)
    fused = {"z": z, "normalized": x_hat, "affine": y, "residual": entering, "activation": a}
    output = a @ m.head.weight.T + m.head.bias
    return [{"z": skip}, fused, {"z": output}], output


class Block(nn.Module):
    """Pre-LN, as in a transformer: u + linear(gelu(linear(norm(u))))."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.up, self.act, self.down = norm, nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6)

    def forward(self, u: Tensor) -> Tensor:
        return u + self.down(self.act(self.up(self.norm(u))))


def transformer(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    layers: Layers = []
    for block in (m[0], m[1]):
        if isinstance(block.norm, nn.LayerNorm):
            x_hat = standard(u, (2,))
        else:
            x_hat = u / (u.square().mean(2, keepdim=True) + torch.finfo().eps).sqrt()
        y = scaled(block.norm, x_hat, -1)
        layers.append({"z": u, "normalized": x_hat, "affine": y})
        z = y @ block.up.weight.T + block.up.bias
        a = F.gelu(z)
        layers.append({"z": z, "activation": a})
        z = a @ block.down.weight.T + block.down.bias
        layers.append({"z": z})
        u = u + z
        layers.append({"residual": u})
    x_hat = standard(u, (2,))
    y = scaled(m[2], x_hat, -1)
    layers.append({"z": u, "normalized": x_hat, "affine": y})
    output = y @ m[3].weight.T + m[3].bias
    return [*layers, {"z": output}], output


def make_transformer(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(Block(norm(6)), Block(norm(6)), nn.LayerNorm(6), nn.Linear(6, 3))


def plain(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    z = u @ m[0].weight.T + m[0].bias
    a = torch.sigmoid(z)
    z2 = a @ m[2].weight.T + m[2].bias
    a2 = z2 * torch.sigmoid(z2)
    output = a2 @ m[4].weight.T + m[4].bias
    return [{"z": z, "activation": a}, {"z": z2, "activation": a2}, {"z": output}], output


def make_plain() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(5, 7), nn.Sigmoid(), nn.Linear(7, 6), nn.SiLU(), nn.Linear(6, 3))
    )


def rows(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    """Batch norm over dim 1 of a linear's (N, C, L): its channels are not the linear's units."""
    z = u @ m[0].weight.T + m[0].bias
    x_hat = standard(z, (0, 2))
    y = scaled(m[1], x_hat, 1)
    a = y.clamp(min=0)
    output = a @ m[2].weight.T + m[2].bias
    return [{"z": z, "normalized": x_hat, "affine": y, "activation": a}, {"z": output}], output


def make_rows() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 7), gb.BatchNorm1d(5, activation="relu"), nn.Linear(7, 2))


def instances(m: nn.Sequential, u: Tensor) -> tuple[Layers, Tensor]:
    """Instance norm of one image without a batch dim."""
    z = F.conv2d(u, m[0].weight, m[0].bias)
    x_hat = standard(z, (1, 2))
    y = scaled(m[1], x_hat, 0)
    return [{"z": z, "normalized": x_hat, "affine": y}], y


def make_instances() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True))


def loss_of(output: Tensor) -> Tensor:
    """Each output with a weight of its own: Σ x̂² would be a constant without a gradient."""
    weights = torch.arange(1.0, output.numel() + 1, dtype=output.dtype).reshape(output.shape)
    return (output.square() * weights.cos()).sum()


FUSED = {"z", "activation"}  # between them there is no tensor that a gradient could reach
ALL = {"z", "normalized", "affine", "activation", "residual"}
NETWORKS = {
    "mlp": (make_mlp, mlp, (16, 5), ALL),
    "in place": (make_in_place, in_place, (4, 2, 5, 5), ALL),
    "fused batch": (
        lambda: Residual(gb.BatchNorm1d(6, activation="sigmoid"), True),
        residual,
        (16, 5),
        FUSED,
    ),
    "fused layer": (
        lambda: Residual(gb.LayerNorm(6, activation="sigmoid"), False),
        residual,
        (16, 5),
        FUSED,
    ),
    "fused group": (
        lambda: Residual(gb.GroupNorm(2, 6, activation="sigmoid"), True),
        residual,
        (16, 5),
        FUSED,
    ),
    "fused rms": (
        lambda: Residual(gb.RMSNorm(6, activation="sigmoid"), False),
        residual,
        (16, 5),
        FUSED,
    ),
    "transformer": (lambda: make_transformer(nn.LayerNorm), transformer, (4, 7, 6), ALL),
    "transformer rms": (lambda: make_transformer(gb.RMSNorm), transformer, (4, 7, 6), ALL),
    "plain": (make_plain, plain, (16, 5), ALL),
    "rows": (make_rows, rows, (6, 5, 4), FUSED),
    "no batch": (make_instances, instances, (2, 8, 7), ALL),
}


@pytest.mark.parametrize(
    ("make", "by_hand", "shape", "with_gradient"), NETWORKS.values(), ids=NETWORKS.keys()
)
def test_stages(
    make: Callable[[], nn.Module],
    by_hand: Callable[[nn.Module, Tensor], tuple[Layers, Tensor]],
    shape: tuple[int, ...],
    with_gradient: set[str],
    tmp_path: Path,
) -> None:
    model = dressed(make())
    x = drawn(*shape)
    u = x.double().requires_grad_()
    layers, output = by_hand(copy.deepcopy(model).double(), u)
    stages = {(n, s): t for n, layer in enumerate(layers, 1) for s, t in layer.items()}
    autograd = torch.autograd.grad(loss_of(output), list(stages.values()))
    # The batch itself, which a pre-norm network normalizes first, asks for no gradient.
    gradients = {
        key: float(gradient.norm())
        for (key, t), gradient in zip(stages.items(), autograd, strict=True)
        if t is not u and key[1] in with_gradient
    }

    with watch(model, tmp_path / "run", every=1) as signal:
        watched = model(x)
        loss = loss_of(watched)
        loss.backward()
        signal.step(loss=loss)
    torch.testing.assert_close(watched.double(), output, rtol=1e-4, atol=1e-4)

    with Run(tmp_path / "run.sqlite") as run:
        (frame,) = run.frames()
        recorded = {
            (p.layer, p.stage): frame.signals[p.id]
            for p in run.probes()
            if STAGES[p.stage].place in ("layer", "row")
        }
        # Parameters are in the rows of the layers that they belong to.
        assert {p.layer for p in run.probes()} == set(range(1, len(layers) + 1))
    assert set(recorded) == set(stages)
    for key, summary in recorded.items():
        agree(summary, stages[key].detach().double())
        # float32 through a few layers: 1e-4 of the norm.
        assert summary.gradient == (
            pytest.approx(gradients[key], rel=1e-4) if key in gradients else None
        )


def agree(summary: Summary, x: Tensor) -> None:
    """A summary in float32 of what is ``x`` in float64."""
    values = x.numpy().ravel()
    near = {"rel": 2e-5, "abs": 2e-5 * float(np.abs(values).max())}  # a few layers of float32
    assert (summary.count, summary.nonfinite) == (values.size, 0)
    assert summary.mean == pytest.approx(values.mean(), **near)
    assert summary.std == pytest.approx(values.std(), **near)
    percentiles = np.percentile(values, [15, 50, 85])
    assert [summary.p15, summary.p50, summary.p85] == pytest.approx(list(percentiles), **near)
    assert summary.minimum == pytest.approx(values.min(), **near)
    assert summary.maximum == pytest.approx(values.max(), **near)
    # Up to each edge as many values as there are, but for those within rounding of that edge.
    edges, rounding = axis.edges().numpy()[1:-1, None], near["abs"]
    below = summary.under + summary.histogram.numpy().cumsum()[:-1]
    assert bool(((values < edges - rounding).sum(1) <= below).all())
    assert bool((below <= (values < edges + rounding).sum(1)).all())


@pytest.mark.parametrize(
    ("make", "by_hand", "shape", "activations", "dims"),
    [
        (make_mlp, mlp, (16, 5), {1: "tanh", 2: "relu"}, (0,)),
        (make_in_place, in_place, (4, 2, 5, 5), {1: "relu", 2: "gelu", 3: "relu"}, (0, 2, 3)),
        (make_plain, plain, (16, 5), {1: "sigmoid", 2: "silu"}, (0,)),
        (
            lambda: Residual(gb.BatchNorm1d(6, activation="sigmoid"), True),
            residual,
            (16, 5),
            {2: "sigmoid"},
            (0,),
        ),
        (lambda: make_transformer(nn.LayerNorm), transformer, (4, 7, 6), {2: "gelu"}, (0, 1)),
    ],
    ids=["mlp", "in place", "plain", "fused", "transformer"],
)
def test_saturation_is_of_what_enters_the_activation(
    make: Callable[[], nn.Module],
    by_hand: Callable[[nn.Module, Tensor], tuple[Layers, Tensor]],
    shape: tuple[int, ...],
    activations: dict[int, str],
    dims: tuple[int, ...],
    tmp_path: Path,
) -> None:
    model = dressed(make())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1 and name.endswith("bias"):
                parameter.mul_(3)  # some units far in their zone
    x = drawn(*shape)
    layers, _ = by_hand(copy.deepcopy(model).double(), x.double())
    with watch(model, tmp_path / "run", every=1) as signal:
        model(x)
        signal.step()
    with Run(tmp_path / "run.sqlite") as run:
        (frame,) = run.frames()
        recorded = {(p.layer, p.stage): (p, frame.signals[p.id]) for p in run.probes()}
    some = False
    for number, activation in activations.items():
        layer = layers[number - 1]
        entering = next(s for s in ("residual", "affine", "z") if s in layer)
        low, high = SATURATION[activation]
        values = layer[entering]
        inside = (values <= low) | (values >= high)
        saturated = float(inside.double().mean())
        dead = float(inside.all(dim=dims).double().mean())
        some = some or 0 < saturated < 1
        for stage in (entering, "activation"):
            probe, summary = recorded[number, stage]
            assert probe.activation == activation
            assert (summary.saturated, summary.dead) == (
                pytest.approx(saturated),
                pytest.approx(dead),
            )
        # z of a normalized layer: what would saturate if it entered the activation as it is.
        would = (layer["z"] <= low) | (layer["z"] >= high)
        assert recorded[number, "z"][1].saturated == pytest.approx(float(would.double().mean()))
        if "normalized" in layer:
            assert recorded[number, "normalized"][1].saturated is None
    assert some


def test_x_hat_comes_from_each_channels_own_statistics(tmp_path: Path) -> None:
    """Two channels far apart: a pooled x̂ would be ±1, two spikes; the channels' own is normal."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2), nn.ReLU())
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
    x = drawn(512, 2) + torch.tensor([100.0, -100.0])
    with watch(model, tmp_path / "run", every=1) as signal:
        model(x)
        signal.step()
    with Run(tmp_path / "run.sqlite") as run:
        (frame,) = run.frames()
        by_stage = {p.stage: frame.signals[p.id] for p in run.probes()}
    assert by_stage["z"].std > 99
    x_hat = by_stage["normalized"]
    assert x_hat.mean == pytest.approx(0, abs=1e-5)
    assert x_hat.std == pytest.approx(1, abs=1e-4)
    # Of a normal distribution: 15th and 85th percentile ∓1.036, the median 0; 1024 values.
    assert (x_hat.p15, x_hat.p50, x_hat.p85) == pytest.approx((-1.036, 0, 1.036), abs=0.12)


def test_a_frozen_batch_norm_uses_its_running_statistics(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU())
    model[1].running_mean.fill_(3.0)
    model[1].running_var.fill_(4.0)
    model[1].eval()
    x = drawn(16, 5)
    with watch(model, tmp_path / "run", every=1) as signal:
        model(x)
        signal.step()
    z = model[0](x).detach().double()
    with Run(tmp_path / "run.sqlite") as run:
        (frame,) = run.frames()
        x_hat = {p.stage: frame.signals[p.id] for p in run.probes()}["normalized"]
    agree(x_hat, (z - 3) / (4 + 1e-5) ** 0.5)


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return torch.relu(super().forward(x))


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_a_norm_with_an_activation_of_its_own_is_drawn_in_stages(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8), nn.Conv2d(8, 2, 1))
    with gb.watch(model, tmp_path / "a", every=1) as signal:
        loss = model(torch.randn(8, 3, 8, 8)).square().mean()
        loss.backward()
        signal.step(loss=loss)
    with gb.Run(tmp_path / "a.sqlite") as run:
        probes = {probe.id: probe for probe in run.probes()}
        (frame,) = run.frames()
        stages = {
            probes[i].stage: summary
            for i, summary in frame.signals.items()
            if probes[i].name == "0"
        }
        assert next(p.activation for p in probes.values() if p.name == "0") == "relu"
    # γ = 1 and β = 0: the sum of 8·6·6·8 values of x̂ is zero to rounding.
    assert abs(stages["affine"].mean) < 1e-5
    assert stages["affine"].minimum < -1
    assert stages["activation"].minimum == 0


def test_a_norm_that_is_not_known_is_named_once(tmp_path):
    """Its output is no γx̂ + β, but a signal of its own; the norm inside it is a known function."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), Doubled(8), nn.ReLU())
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with gb.watch(model, tmp_path / "a", every=1) as signal:
            for _ in range(3):
                model(torch.randn(8, 3, 8, 8)).square().mean().backward()
                signal.step()
    (message,) = [str(w.message) for w in said]
    expected = "not measured as normalizations: 1: Doubled has a forward of its own"
    assert message.startswith(expected)
    with gb.Run(tmp_path / "a.sqlite") as run:
        probes = {probe.id: (probe.name, probe.stage) for probe in run.probes()}
        frame = next(run.frames())
    signals = {probes[i]: summary for i, summary in frame.signals.items()}
    stages = {place for place in signals if STAGES[place[1]].place == "layer"}
    assert stages == {
        *(("0", stage) for stage in ("z", "normalized", "affine")),
        *(("1", stage) for stage in ("z", "activation")),
    }
    assert signals["0", "affine"].std == pytest.approx(1, rel=1e-3)
    assert signals["1", "z"].std == pytest.approx(2, rel=1e-3)
