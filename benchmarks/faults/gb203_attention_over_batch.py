"""A transformer encoder is given (batch, time, features) without ``batch_first=True``."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CODE = "GB203"
LAYER = "encoder.layers.0.self_attn"
FIX = "batch_first"


class Classifier(nn.Module):
    """A transformer that classifies sequences of tokens."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, norm_first=True, batch_first=not faulty
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return logits."""
        return self.head(self.encoder(self.embed(tokens)).mean(1))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    tokens, y = torch.randint(50, (3, 8, 12)), torch.randint(3, (3, 8))
    model = Classifier(faulty)
    return {"model": model, "batches": list(zip(tokens, y, strict=True)), "loss": F.cross_entropy}
