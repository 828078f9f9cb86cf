"""Data and a net to calibrate, and all there is of a model, to be compared."""

import random

import numpy as np
import torch
from torch import nn

METHODS = ("algorithm2", "pooled", "moving_average")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def data(*sizes, shape=(3,), seed=0):
    g = generator(seed)
    return [2 + 3 * torch.randn(n, *shape, generator=g) for n in sizes]


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


class Residual(nn.Module):
    """A small residual net with dropout, made of ``norm`` layers."""

    def __init__(self, norm=nn.BatchNorm2d):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = norm(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = norm(8)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(x + self.bn2(self.conv(self.dropout(x))))
        return self.head(x.mean((2, 3)))


def everything(model):
    """All that must be as before, in a form that compares bit by bit."""
    return {
        "parameters": {k: (id(p), p.detach().clone()) for k, p in model.named_parameters()},
        "grads": {k: p.requires_grad for k, p in model.named_parameters()},
        "buffers": {k: (id(b), b.clone()) for k, b in model.named_buffers()},
        "modes": {k: m.training for k, m in model.named_modules()},
        "hooks": {
            k: [dict(m._forward_pre_hooks), dict(m._forward_hooks), dict(m._backward_hooks)]
            for k, m in model.named_modules()
        },
        "attributes": {k: sorted(m.__dict__) for k, m in model.named_modules()},
        "rng": [torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()],
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
