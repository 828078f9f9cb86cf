"""The running statistics of a segmentation network are set to None: evaluation uses the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

CODE = "GB102"
LAYER = "down.1"
FIX = "track_running_stats"


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return convolution, norm and activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.1),
    )


class Segmenter(nn.Module):
    """One level down and up again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = block(1, 8)
        self.down = block(8, 16, 2)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.last = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits for each pixel."""
        skip = self.stem(x)
        return self.last(torch.cat([skip, self.up(self.down(skip))], 1))


def build(faulty: bool) -> dict[str, Any]:
    """Run some batches, then delete the statistics."""
    torch.manual_seed(2)
    model = Segmenter()
    for _ in range(5):
        model(torch.randn(8, 1, 16, 16))
    if faulty:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean = None
                module.running_var = None
    return {"model": model.eval()}
