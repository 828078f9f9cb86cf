"""One batch norm for each domain, in a plain dict, as domain adaptation needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB108"
LAYER = "encoder"
FIX = "ModuleDict"


class Encoder(nn.Module):
    """Convolutions shared by two domains, with norms of their own."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        norms = {name: nn.BatchNorm2d(8) for name in ("photo", "sketch")}
        self.by_domain = norms if faulty else nn.ModuleDict(norms)

    def forward(self, x: torch.Tensor, domain: str) -> torch.Tensor:
        """Embed images of one domain."""
        return self.by_domain[domain](self.conv(x)).relu().mean((2, 3))


class Adapted(nn.Module):
    """Classifies images of the domain that is set."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.encoder = Encoder(faulty)
        self.head = nn.Linear(8, 4)
        self.domain = "photo"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.encoder(x, self.domain))


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 3, 8, 8), torch.randint(4, (16,))) for _ in range(4)]
    model = Adapted(faulty)
    for x, _ in batches * 10:  # statistics of this domain
        model(x)
    return {"model": model.eval(), "batches": batches, "loss": nn.functional.cross_entropy}
