"""A watch of a converted model: norms go on fusing, and everything inside them is shown."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gammabeta as gb
from gammabeta.layers import waiting


class Block(nn.Module):
    def __init__(self, activation: nn.Module) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(8)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        y += x
        return self.activation(y)


def network(activation: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), activation, Block(activation)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


def train(model: nn.Module, record: Path | None) -> list[Tensor]:
    """Three steps; returns all that they change."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(0)
    watch = gb.watch(model, record, every=1) if record else contextlib.nullcontext()
    with watch as signal:
        for _ in range(3):
            x = torch.randn(8, 3, 32, 32, generator=generator)
            loss = F.cross_entropy(model(x), torch.arange(8))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if signal is not None:
                signal.step(loss=loss)
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.SiLU(), nn.GELU(), nn.Sigmoid()])
def test_watching_changes_no_bit(activation: nn.Module, tmp_path: Path) -> None:
    one = train(gb.convert(network(activation)), None)
    other = train(gb.convert(network(activation)), tmp_path / "run.sqlite")
    assert all(map(torch.equal, one, other))


def test_norms_fuse_while_they_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    original = waiting.Waiting.compute

    def noted(self: waiting.Waiting, *args: object, **kwargs: object) -> Tensor:
        computed.append(args[1:2])
        return original(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(waiting.Waiting, "compute", noted)
    train(gb.convert(network(nn.ReLU())), tmp_path / "run.sqlite")
    assert computed == [("relu",)] * 9


def test_all_stages_are_there_and_those_of_the_model_that_does_not_fuse(tmp_path: Path) -> None:
    stages = []
    for fuse in (True, False):
        path = tmp_path / f"{fuse}.sqlite"
        train(gb.convert(network(nn.ReLU()), fuse=fuse), path)
        run = gb.Run(path)
        names = {probe.id: (probe.name, probe.stage) for probe in run.probes()}
        frame = next(iter(run.frames()))
        stages.append({names[i]: signal for i, signal in frame.signals.items()})
    fused, plain = stages
    assert fused.keys() == plain.keys()
    assert {stage for _, stage in fused} >= {"z", "normalized", "affine", "activation", "residual"}
    for name, signal in plain.items():
        assert fused[name].mean == pytest.approx(signal.mean, rel=1e-4, abs=1e-5), name
        assert fused[name].std == pytest.approx(signal.std, rel=1e-4, abs=1e-5), name
