"""What of a step becomes a frame: the signals of its pass, and its parameters before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gammabeta.signal.attending import Recorded
from gammabeta.signal.capture import Capture
from gammabeta.signal.frame import Draft
from gammabeta.signal.parameters import Inventory, Parameters
from gammabeta.signal.record import Measured, Record
from gammabeta.signal.regions import is_compiled, row_of, title
from gammabeta.signal.wanted import Wanted

_PARAMETERS_EVERY = 4
"""Parameters move slowly: if frames are dear, they are measured in one of so many."""
_KEPT_EVERY = 16
"""The values of channels are kept one by one in one of so many frames."""


class Drafting:
    """The frames of one watch, from the samples that it takes.

    Args:
        model: the watched model.
        record: where its probes have their ids.
        arm: name of the arm.
        wanted: whether a row's stage is to be measured, by their names.
        optimizer: whose groups of weights are measured, too; or None.

    Attributes:
        frames: number of frames so far.
    """

    def __init__(
        self,
        model: nn.Module,
        record: Record,
        arm: str,
        wanted: Wanted,
        optimizer: torch.optim.Optimizer | None,
    ) -> None:
        self.frames = 0
        self._model = model
        self._record = record
        self._arm = record.arm(arm)
        self._wanted = wanted
        self._optimizer = optimizer
        self._rows: dict[int, tuple[str, str]] = {}
        self._units: dict[int, NDArray[Any]] = {}
        self._inventory: Inventory | None = None
        self._parameters: Parameters | None = None  # sampled before this step

    @property
    def names(self) -> Mapping[int, str]:
        """Id → name of each parameter, as far as they were looked at."""
        return {} if self._inventory is None else self._inventory.names

    def begin(self, dear: bool) -> None:
        """Sample the parameters before a step; in few frames where frames are ``dear``."""
        turn = self.frames % _PARAMETERS_EVERY == 0
        if self._inventory is None or turn:  # parameters may come and go
            self._inventory = Inventory(self._model)
        if turn or not dear or is_compiled(self._model):
            self._parameters = self._inventory.begin()

    def passed(self) -> None:
        """Note the running statistics after the forward pass."""
        if self._inventory is not None and self._parameters is not None:
            self._inventory.passed(self._parameters)

    def drop(self) -> None:
        """Let go of the parameters' samples: the step is over."""
        self._parameters = None

    def draft(self, scale: Tensor | float) -> Draft:
        """Return an empty frame, whose gradients are divided by ``scale``."""
        return Draft(scale, self._units, self.frames % _KEPT_EVERY == 0)

    def fill(self, draft: Draft, passed: Capture | None) -> None:
        """Add the signals of a pass, and the parameters after the step."""
        norms: dict[str, str] = {}
        if passed is not None:
            draft.seconds += passed.seconds
            draft.add_rows(passed.rows, self._probe)
        if self._inventory is not None and self._parameters is not None:
            names = self._inventory.names
            for parameter, row in passed.norms.items() if passed is not None else ():
                if parameter in names:
                    norms[row_of(names[parameter], title(self._model))] = row
            if passed is None:
                self._inventory.passed(self._parameters)
            self._inventory.end(self._parameters)
            draft.add_parameters(self._parameters, norms, self._probe)
            if self._optimizer is not None:
                draft.add_groups(self._inventory.groups(self._optimizer))
        draft.send()

    def recorded(self, measured: Measured, step: int) -> Recorded:
        """Return a measured frame as an attendant gets it."""
        return Recorded.of(step, measured, self._rows)

    def _probe(self, name: str, stage: str, activation: str | None) -> int | None:
        """Return the id of a probe; None for what is not wanted."""
        if not self._wanted(name, stage):
            return None
        layer = self._record.layer(self._arm, name)
        number = self._record.probe(self._arm, layer, name, stage, activation)
        self._rows[number] = (name, stage)
        return number
