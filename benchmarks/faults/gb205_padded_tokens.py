"""Batch norm after an embedding of padded tokens, in a transformer that masks attention only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB205"
LAYER = "norm"
FIX = "MaskedBatchNorm1d"


class Encoder(nn.Module):
    """A transformer with batch norm at its input."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.faulty = faulty
        self.embed = nn.Embedding(40, 16, padding_idx=0)
        self.norm = nn.BatchNorm1d(16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        data = tokens != 0
        x = self.embed(tokens)
        if self.faulty:
            x = self.norm(x.transpose(1, 2)).transpose(1, 2)
        else:
            kept = torch.zeros_like(x)
            kept[data] = self.norm(x[data])
            x = kept
        x, _ = self.attention(x, x, x, key_padding_mask=~data, need_weights=False)
        return self.head((x * data[..., None]).sum(1) / data.sum(1, keepdim=True))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    batches = []
    for _ in range(3):
        tokens = torch.randint(1, 40, (16, 20))
        tokens[torch.arange(20) >= torch.randint(4, 21, (16, 1))] = 0
        batches.append((tokens, torch.randint(3, (16,))))
    return {"model": Encoder(faulty), "batches": batches, "loss": F.cross_entropy}
