"""A convolutional variational autoencoder with batch norm in both halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class VAE(nn.Module):
    """An encoder, a Gaussian code, and a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(256, 16),
        )
        self.decoder = nn.Sequential(
            nn.Linear(8, 256, bias=False),
            nn.BatchNorm1d(256),
            nn.ReLU(),
            nn.Unflatten(1, (16, 4, 4)),
            nn.ConvTranspose2d(16, 8, 4, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 4, 2, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the reconstruction, and mean and logarithmic variance of the code."""
        mean, log_var = self.encoder(x).chunk(2, 1)
        noise = torch.randn_like(mean) if self.training else torch.zeros_like(mean)
        return self.decoder(mean + noise * (0.5 * log_var).exp()), mean, log_var


def loss_of(output: tuple[Tensor, Tensor, Tensor], target: Tensor) -> Tensor:
    """Return the squared error, and a little of the divergence from the standard normal."""
    y, mean, log_var = output
    divergence = (mean.square() + log_var.exp() - 1 - log_var).mean() / 2
    return F.mse_loss(y, target) + 0.01 * divergence


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Train, and return what is examined."""
    torch.manual_seed(0)
    model = VAE()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    x = F.interpolate(torch.randn(128, 1, 4, 4), scale_factor=4, mode="bilinear")
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(8):
            for batch in torch.randperm(128).split(32):
                loss = loss_of(model(x[batch]), x[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
    batches = [(each, each) for each in x.split(32)]
    return {"model": model, "batches": batches, "loss": loss_of, "optimizer": optimizer}
