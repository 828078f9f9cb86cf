"""Norms for each width are made at the first use and put into a plain dict."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB108"
LAYER = "slim"
FIX = "nn.ModuleDict"
WIDTHS = (4, 8)


class Slimmable(nn.Module):
    """A linear layer of several widths, each with a norm of its own."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, max(WIDTHS), bias=False)
        self.width = max(WIDTHS)
        self.norms: Any = {} if faulty else nn.ModuleDict()
        if not faulty:
            self.norms.update({str(width): nn.BatchNorm1d(width) for width in WIDTHS})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of the present width."""
        key = str(self.width)
        if key not in self.norms:
            self.norms[key] = nn.BatchNorm1d(self.width)
        return self.norms[key](self.linear(x)[:, : self.width])  # type: ignore[no-any-return]


class Net(nn.Module):
    """The layer and a head."""

    def __init__(self, faulty: bool) -> None:
        super().__init__()
        self.slim = Slimmable(faulty)
        self.head = nn.Linear(max(WIDTHS), 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits."""
        return self.head(self.slim(x).relu())  # type: ignore[no-any-return]


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Net(faulty)}
