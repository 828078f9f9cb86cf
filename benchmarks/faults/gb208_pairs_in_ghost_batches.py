"""Both views of a pair are normalized in one small group, as on a GPU without MoCo's shuffle.

He et al. 2020, arXiv:1911.05722, section 3.3."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB208"
LAYER = "encoder.1"
FIX = "randperm"


class Contrastive(nn.Module):
    """Two views, one encoder, statistics of groups of 4."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.encoder = nn.Sequential(
            nn.Linear(16, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 64, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 16),
        )

    def forward(self, q: Tensor, k: Tensor) -> Tensor:
        """Return the similarity of each q with each k."""
        return 10 * self.embed(q) @ self.embed(k).T

    def embed(self, x: Tensor) -> Tensor:
        """Return the embedding, computed in parts as on several GPUs."""
        parts = x.split(4) if self.faulty and self.training_like() else (x,)
        return F.normalize(torch.cat([self.encoder(part) for part in parts]), dim=1)

    def training_like(self) -> bool:
        """Whether the norm takes the statistics of the batch."""
        return self.encoder[1].training


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    model = Contrastive(faulty)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _step in range(120):
        q, k = _views(64)
        loss = F.cross_entropy(model(q, k), torch.arange(64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    batches = [dict(zip("qk", _views(64), strict=True)) for _ in range(4)]
    return {"model": model, "batches": batches}


def _views(number: int) -> tuple[Tensor, Tensor]:
    image = torch.randn(number, 16)
    return image + 0.8 * torch.randn(number, 16), image + 0.8 * torch.randn(number, 16)
