"""A small net to convert, and what is compared of one before and after."""

import copy

import torch
from torch import nn


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def filled(module, seed=0):
    """``module`` with parameters and buffers that are none of the initial ones."""
    g = generator(seed)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=g))
            else:
                tensor.fill_(7)
    return module


def net():
    return filled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Sequential(nn.GroupNorm(2, 8), nn.Flatten(2), nn.LayerNorm(16)),
            nn.RMSNorm(16),
        )
    )


def images(seed=0):
    return torch.randn(4, 3, 4, 4, generator=generator(seed))


def state(model):
    """Everything there is of a model, by identity, and its values."""
    return (
        [
            (
                name,
                id(module),
                type(module),
                {key: id(value) for key, value in module.__dict__.items()},
                {key: id(value) for key, value in module._parameters.items()},
                {key: id(value) for key, value in module._buffers.items()},
                {key: id(value) for key, value in module._modules.items()},
            )
            for name, module in model.named_modules(remove_duplicate=False)
        ],
        repr(model),
    )


def assert_equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    assert list(a) == list(b)
    assert all(torch.equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)
    assert a._metadata == b._metadata


def run(model, x, training):
    """Outputs and gradients, by a copy, so that no statistic of ``model`` moves."""
    model = copy.deepcopy(model).train(training)
    x = x.clone().requires_grad_()
    y = model(x)
    y.square().sum().backward()
    return [y, x.grad, *(p.grad for p in model.parameters()), *model.buffers()]


def assert_same_bits(a, b):
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other)


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


class ThirdParty(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1


def batch_net(norm=nn.BatchNorm2d):
    return filled(nn.Sequential(nn.Conv2d(3, 8, 1), norm(8, eps=1e-3), nn.ReLU(), norm(8)))
