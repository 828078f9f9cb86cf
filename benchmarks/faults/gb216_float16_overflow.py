"""A transformer with large activations is converted to float16, whose largest value is 65504."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB216"
LAYER = "1.down"
FIX = "float16"


class MLP(nn.Module):
    """The feed-forward part of a transformer, with a residual connection."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.up = nn.Linear(32, 128)
        self.act = nn.ReLU()
        self.down = nn.Linear(128, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to the stream."""
        return x + self.down(self.act(self.up(self.norm(x))))


def build(faulty: bool) -> dict[str, Any]:
    """Return the model in float16, or in float32."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), MLP(), nn.LayerNorm(32), nn.Linear(32, 5))
    with torch.no_grad():  # as large language models have them, in a few channels
        model[1].down.weight[3] += 60
        model[1].up.weight *= 40
    dtype = torch.float16 if faulty else torch.float32
    batches = [torch.randn(4, 6, 8, dtype=dtype) for _ in range(2)]
    return {"model": model.to(dtype), "batches": batches}
