"""What adapting and merging are for: real training on the digits, and data that are shifted."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import gammabeta as gb
from gammabeta.lab.data import load_images


def generator(seed):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def digits():
    data = load_images("digits")
    return [
        (torch.as_tensor(part.images).float() / 255, torch.as_tensor(part.labels))
        for part in (data.train, data.test)
    ]


def net():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2, bias=False),
            gb.BatchNorm2d(32, activation="relu"),
            nn.Flatten(),
            nn.Linear(512, 10),
        )


def train(model, x, y, epochs, rate, seed=0):
    optimizer = torch.optim.SGD(model.train().parameters(), rate, momentum=0.9)
    for epoch in range(epochs):
        for index in torch.randperm(len(x), generator=generator(seed + epoch)).split(64):
            if len(index) > 8:
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, x, y, size=32):
    right = [
        (model(a).argmax(1) == b).sum() for a, b in zip(x.split(size), y.split(size), strict=True)
    ]
    return float(sum(right)) / len(x)


def test_adapting_helps_where_the_test_data_are_shifted(digits):
    (x, y), (test_x, test_y) = digits
    model = train(net(), x, y, epochs=5, rate=0.05)
    noise = 0.1 * torch.randn(test_x.shape, generator=generator(1))
    shifted = 0.3 * test_x + 0.5 + noise  # little contrast, a bright background, grain
    before = accuracy(model, shifted, test_y)
    assert accuracy(model, test_x, test_y) > 0.97
    assert before < 0.4  # 0.23; a guess has 0.1
    with gb.adapt(model):
        assert accuracy(model, shifted, test_y) > before + 0.3  # 0.74
        assert accuracy(model, test_x, test_y) > 0.96  # little is lost where nothing is shifted
    with gb.adapt(model, prior=16):
        assert accuracy(model, shifted, test_y) > before + 0.25  # 0.70
    with gb.adapt(model, running=True):
        assert accuracy(model, shifted, test_y, size=2) > before + 0.3  # 0.74 by two at a time
    assert accuracy(model, shifted, test_y) == before


def average(states, weights):
    """As federated averaging is mostly written: every entry, counters and variances too."""
    total = sum(weights)
    return {
        key: sum(
            weight / total * state[key].float()
            for weight, state in zip(weights, states, strict=True)
        )
        for key in states[0]
    }


def test_merged_statistics_beat_averaged_ones_where_clients_differ(digits):
    (x, y), (test_x, test_y) = digits
    cameras = (0, 1, -1)  # brightness of each client's images
    parts = [(x[:300], y[:300]), (x[300:800] + 1, y[300:800]), (x[800:] - 1, y[800:])]
    weights = [len(part[1]) for part in parts]
    model = net()
    for turn in range(3):
        clients = [
            train(copy.deepcopy(model), *part, epochs=2, rate=0.02, seed=10 * turn + index)
            for index, part in enumerate(parts)
        ]
        states = [client.state_dict() for client in clients]
        averaged = average(states, weights)
        naive = net().eval()
        naive.load_state_dict(averaged)
        gb.merge_statistics(states, weights, into=averaged)
        model.load_state_dict(averaged)
        model.eval()

    def everywhere(model):
        return sum(accuracy(model, test_x + camera, test_y) for camera in cameras) / 3

    assert all((model[i].running_var > naive[i].running_var).all() for i in (1, 4))
    assert everywhere(model) > everywhere(naive) + 0.05  # 0.76 and 0.65
