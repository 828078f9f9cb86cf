"""A projection head makes its batch norm in a helper that forward calls."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB109"
LAYER = "projector"
FIX = "__init__"


class Projector(nn.Module):
    """The projection head of a siamese network."""

    def __init__(self, faulty: bool, width: int = 24) -> None:
        super().__init__()
        self.first = nn.Linear(16, width, bias=False)
        self.last = nn.Linear(width, 8)
        self.faulty = faulty
        if not faulty:
            self.norm = nn.BatchNorm1d(width)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Project (N, 16)."""
        return self.last(self.normalized(self.first(x)).relu())

    def normalized(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize the hidden features."""
        if hasattr(self, "norm"):
            return self.norm(x)
        norm = nn.BatchNorm1d(self.width)
        return norm(x)


class Siamese(nn.Module):
    """Two views, one encoder."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(10, 16), nn.ReLU())
        self.projector = Projector(faulty)

    def forward(self, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """Return the similarity of two views."""
        views = [self.projector(self.encoder(view)) for view in (one, other)]
        return nn.functional.cosine_similarity(*views)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Siamese(faulty)
    pairs = [torch.randn(2, 32, 10) for _ in range(4)]
    for one, other in pairs * 10:
        model(one, other)
    model.eval()
    return {"model": model, "batches": pairs, "forward": lambda pair: model(*pair)}
