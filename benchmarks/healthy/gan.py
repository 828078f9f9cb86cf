"""A GAN done right: real and generated pictures go through the discriminator in batches apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train both players, and return the generator, which is examined."""
    torch.manual_seed(0)
    generator = nn.Sequential(
        nn.Linear(8, 128, bias=False),
        nn.BatchNorm1d(128),
        nn.ReLU(),
        nn.Unflatten(1, (8, 4, 4)),
        nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 1, 4, 2, 1),
        nn.Tanh(),
    )
    discriminator = nn.Sequential(
        nn.Conv2d(1, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(256, 1),
    )
    made = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    judged = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))
    x = torch.tanh(F.interpolate(torch.randn(128, 1, 4, 4), scale_factor=4, mode="bilinear"))
    one, zero = torch.ones(32, 1), torch.zeros(32, 1)
    game = F.binary_cross_entropy_with_logits
    with watch(discriminator, optimizer=judged) as judge, watch(generator, optimizer=made) as maker:
        for _epoch in range(10):
            for batch in torch.randperm(128).split(32):
                fake = generator(torch.randn(32, 8))
                loss = game(discriminator(x[batch]), one) + game(discriminator(fake.detach()), zero)
                judged.zero_grad()
                loss.backward()
                judged.step()
                judge.step(loss=loss)
                loss = game(discriminator(fake), one)
                made.zero_grad()
                loss.backward()
                made.step()
                maker.step(loss=loss)
    return {"model": generator, "batches": list(torch.randn(256, 8).split(32)), "optimizer": made}
