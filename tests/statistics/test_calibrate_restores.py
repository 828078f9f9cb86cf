"""Calibrating changes statistics and nothing else, however it ends."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import gammabeta as gb
from tests.statistics.nets import (
    METHODS,
    Residual,
    data,
    everything,
    same,
    seeded,
)


class Untidy(nn.Module):
    """Everything a forward pass can leave behind."""

    def __init__(self):
        super().__init__()
        self.net = Residual()
        self.spectral = nn.utils.spectral_norm(nn.Linear(2, 2))
        self.instance = nn.InstanceNorm1d(3, track_running_stats=True)
        self.untouched = nn.BatchNorm1d(3)
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(2))
        self.count = 0
        self.plain = torch.zeros(3)
        self.fails_at = None

    def forward(self, x):
        self.steps += 1
        self.replaced = torch.ones(2) * self.count
        self.count += 1
        self.plain.add_(1)
        self.cache = x
        random.random()
        np.random.rand()
        torch.rand(1)
        self.instance(x.flatten(2))
        y = self.spectral(self.net(x))
        if self.count - 1 == self.fails_at:
            raise KeyboardInterrupt if self.interrupt else RuntimeError("midway")
        return y


def untidy():
    model = seeded(Untidy)
    gb.freeze(model.untouched)
    model.net.bn1.register_forward_hook(print)
    model.net.bn1._forward_hooks.clear()
    model.net.bn2.register_forward_pre_hook(lambda *_: None)
    model.net.conv.eval()
    return model


def images(count=3):
    return data(*[4] * count, shape=(3, 4, 4))


@pytest.mark.parametrize("others", ["eval", "train"])
@pytest.mark.parametrize("training", [True, False])
def test_only_the_statistics_change(others, training):
    model = untidy()
    model.training = training
    before = everything(model)
    plain = model.plain.clone()
    report = gb.calibrate(model, images(), others=others)
    assert set(report.layers) == {"net.bn1", "net.bn2"}
    after = everything(model)
    changed = {k for k in before["buffers"] if not same(before["buffers"][k], after["buffers"][k])}
    of = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {f"net.{bn}.{what}" for bn in ("bn1", "bn2") for what in of}
    for buffers in (before["buffers"], after["buffers"]):
        for name in changed:
            buffers.pop(name)
    assert same(after, before)
    assert torch.equal(model.plain, plain)
    assert model.count == 0


@pytest.mark.parametrize("interrupt", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_an_error_in_a_forward_pass_changes_nothing(interrupt, method):
    model = untidy()
    model.fails_at, model.interrupt = 1, interrupt
    before = everything(model)
    with pytest.raises(KeyboardInterrupt if interrupt else RuntimeError):
        gb.calibrate(model, images(), method)
    assert same(everything(model), before)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_in_the_iterator_changes_nothing(error):
    def broken():
        yield images(1)[0]
        torch.rand(3)
        raise error

    model = untidy()
    before = everything(model)
    with pytest.raises(error):
        gb.calibrate(model, broken())
    assert same(everything(model), before)


def test_an_interrupt_between_two_layers_writes_neither(monkeypatch):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    gb.calibrate(model, data(5, seed=1))  # so that the old values are not the initial ones
    before = everything(model)
    writes = []
    clamp = torch.Tensor.clamp_

    def interrupted(tensor, *args, **kwargs):
        writes.append(tensor)
        if len(writes) == 2:
            raise KeyboardInterrupt
        return clamp(tensor, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "clamp_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gb.calibrate(model, data(8, 8))  # two batches: the number tracked grows too
    assert len(writes) == 2
    assert same(everything(model), before)


def test_a_shuffling_loader_leaves_the_random_state_and_a_seed_makes_it_reproducible():
    x = data(64)[0]
    loader = DataLoader(TensorDataset(x), batch_size=10, shuffle=True)
    results = []
    for _ in range(2):
        model = nn.Sequential(nn.BatchNorm1d(3))
        with torch.random.fork_rng():
            torch.manual_seed(3)
            state = torch.get_rng_state()
            gb.calibrate(model, loader)
            assert torch.equal(torch.get_rng_state(), state)
        results.append(model[0].running_var.clone())
    assert torch.equal(*results)


def test_training_goes_on_as_if_nothing_had_happened():
    def train(calibrates):
        model = seeded(Residual)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            for batch in images(3):
                if calibrates:
                    gb.calibrate(model, images(2), others="train")
                optimizer.zero_grad()
                model(batch).square().sum().backward()
                optimizer.step()
        return dict(model.named_parameters())

    plain, calibrated = train(False), train(True)
    assert all(torch.equal(plain[name], calibrated[name]) for name in plain)


def test_no_gradient_is_left():
    model = seeded(Residual)
    gb.calibrate(model, images())
    assert all(p.grad is None for p in model.parameters())
    assert torch.is_grad_enabled()
