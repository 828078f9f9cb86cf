"""A recurrent cell with a batch norm for each time step, in a plain list."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

CODE = "GB108"
LAYER = ""
FIX = "ModuleList"


class Recurrent(nn.Module):
    """A tanh recurrence whose state is normalized by step, as in Cooijmans et al. 2017."""

    def __init__(self, faulty: bool, steps: int = 5, features: int = 6, hidden: int = 16) -> None:
        super().__init__()
        norms = [nn.BatchNorm1d(hidden) for _ in range(steps)]
        self.norms = norms if faulty else nn.ModuleList(norms)
        self.from_input = nn.Linear(features, hidden)
        self.from_state = nn.Linear(hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, 3)
        self.hidden = hidden

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over (N, T, F)."""
        state = x.new_zeros(len(x), self.hidden)
        for step, norm in enumerate(self.norms):
            state = torch.tanh(norm(self.from_state(state) + self.from_input(x[:, step])))
        return self.head(state)


def build(faulty: bool) -> dict[str, Any]:
    """Return the arguments of `gammabeta.examine`."""
    torch.manual_seed(0)
    return {"model": Recurrent(faulty)}
