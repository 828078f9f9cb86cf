"""Transfer learning: a frozen backbone, kept in evaluation by its own `train`, and a new head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Transfer(nn.Module):
    """A backbone that is not trained, and a head that is."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(16, 3)
        self.backbone.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.backbone(x))

    def train(self, mode: bool = True) -> Transfer:
        """Set the mode; the backbone stays in evaluation."""
        super().train(mode)
        self.backbone.eval()
        return self


def train(watch: Callable[..., Any]) -> dict[str, Any]:
    """Pretrain a backbone, freeze it, train the head, and return what is examined."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    y = torch.randint(0, 3, (96,))
    x = torch.randn(96, 3, 10, 10) + F.one_hot(y, 3)[:, :, None, None]
    old = nn.Sequential(backbone, nn.Linear(16, 3))
    before = torch.optim.SGD(old.parameters(), lr=0.05)
    for _step in range(40):
        batch = torch.randperm(96)[:32]
        loss = F.cross_entropy(old(x[batch]), y[batch])
        before.zero_grad()
        loss.backward()
        before.step()

    model = Transfer(backbone).train()
    optimizer = torch.optim.AdamW(model.head.parameters(), lr=1e-2)
    with watch(model, optimizer=optimizer) as signal:
        for _epoch in range(4):
            model.train()
            for batch in torch.randperm(96).split(16):
                loss = F.cross_entropy(model(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                signal.step(loss=loss)
            model.eval()
            with torch.no_grad():
                model(x)
    batches = list(zip(x.split(16), y.split(16), strict=True))
    return {
        "model": model,
        "batches": batches,
        "loss": F.cross_entropy,
        "optimizer": optimizer,
    }
