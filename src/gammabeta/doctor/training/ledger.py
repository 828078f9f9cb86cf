"""Where the updates of running statistics come from, from one optimizer step to the next."""

from __future__ import annotations

import weakref
from typing import Literal

from torch import nn

from gammabeta.doctor.training.counters import Counters, counted
from gammabeta.doctor.training.passes import added
from gammabeta.doctor.training.watched import Watched
from gammabeta.statistics.preserve import is_preserving

_MOST = 64
"""Parameters that are asked whether weights have changed, evenly spaced."""


class Ledger:
    """The updates of the batch norms of a run since the last step ended.

    Args:
        watched: the run.

    Attributes:
        updates: path of a batch norm → number of its updates.
        outside: those that happened in no call that was seen, and in no backward pass.
        recomputed: those that happened in backward passes.
        settled: what `weigh` returned when the last step ended.
    """

    def __init__(self, watched: Watched) -> None:
        parameters = list(watched.model.parameters())
        learning = [p for p in parameters if p.requires_grad]
        others = [p for p in parameters if not p.requires_grad]
        some = [*_some(learning, _MOST), *_some(others, _MOST // 4)]
        self._parameters = [weakref.ref(p) for p in some]
        self._counters = Counters(watched.batch_norms)
        self.begin()

    def begin(self) -> None:
        """Begin a step."""
        self.updates: dict[str, int] = {}
        self.outside: dict[str, int] = {}
        self.recomputed: dict[str, int] = {}
        self.settled = self._weighed = self._weigh()

    def resume(self) -> None:
        """Begin a step after others that were not seen: what they updated is forgotten."""
        self._counters.grown()
        self.begin()

    def weigh(self) -> int:
        """Return the sum of version counters of parameters: it grows if they change."""
        self._weighed = self._weigh()
        return self._weighed

    def in_call(self) -> dict[str, int]:
        """Return the updates of a call of the model, which has ended."""
        grown = self._counters.grown()
        added(self.updates, grown)
        return grown

    def account(self, kind: Literal["outside", "recomputed"], stepped: bool) -> None:
        """Say where the updates since the last time came from.

        Args:
            kind: where.
            stepped: whether an optimizer has stepped since the last step ended.
        """
        grown = self._counters.grown()
        if not grown:
            return
        if kind == "outside":
            loaded = not stepped and self._weigh() != self._weighed
            if loaded or not counted(grown.values()) or is_preserving():
                return
        added(self.updates, grown)
        added(self.outside if kind == "outside" else self.recomputed, grown)

    def _weigh(self) -> int:
        live = [p for ref in self._parameters if (p := ref()) is not None]
        return sum([int(p._version) for p in live])


def _some(parameters: list[nn.Parameter], most: int) -> list[nn.Parameter]:
    """Return at most ``most`` parameters, evenly spaced, with the first and the last."""
    if len(parameters) <= most:
        return parameters
    last = len(parameters) - 1
    return [parameters[round(i * last / (most - 1))] for i in range(most)]
