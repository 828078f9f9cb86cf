"""Batch norm in a convolutional net on sequences that are padded with zeros."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import gammabeta as gb

CODE = "GB205"
LAYER = "norm"
FIX = "MaskedBatchNorm1d"


class Speech(nn.Module):
    """A net on features of speech, (N, L, C)."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm1d(16) if faulty else gb.MaskedBatchNorm1d(16)
        self.faulty, self.head = faulty, nn.Linear(16, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Return logits."""
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        h = self.conv(x.transpose(1, 2))
        h = self.norm(h) if self.faulty else self.norm(h, mask)
        h = h.relu() * mask[:, None]
        return self.head(h.sum(2) / lengths[:, None])


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    batches = []
    for _ in range(4):
        lengths = torch.randint(6, 31, (16,))
        lengths[0] = 30
        x = 1 + 0.5 * torch.randn(16, 30, 8)
        x[torch.arange(30) >= lengths[:, None]] = 0
        batches.append({"x": x, "lengths": lengths})
    return {"model": Speech(faulty), "batches": batches}
