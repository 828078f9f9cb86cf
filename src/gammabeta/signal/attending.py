"""Who else looks at a watched training: the doctor. It stands above this package and registers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from gammabeta.signal.record import Measured
from gammabeta.signal.scalars import Numbers


class Found(Protocol):
    """A finding, as far as a watch knows it."""

    @property
    def step(self) -> int | None:
        """The step at which it began."""

    @property
    def severity(self) -> str:
        """``"info"``, ``"warning"`` or ``"error"``."""

    @property
    def text(self) -> str:
        """One line that says what was found, and where."""

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON can represent it."""


@dataclass(frozen=True)
class Recorded:
    """A frame, as an attendant gets it.

    Attributes:
        step: its number.
        rows: (name of the row, stage) → field of `gammabeta.signal.schema.Summary` → value (NaN if
            it was not measured), in the order of the network.
    """

    step: int
    rows: Mapping[tuple[str, str], Mapping[str, float]]

    @classmethod
    def of(cls, step: int, measured: Measured, names: Mapping[int, tuple[str, str]]) -> Recorded:
        """Return the frame ``measured``, whose probes are called ``names``."""
        columns = {key: column.tolist() for key, column in measured.columns.values.items()}
        rows = {}
        for index, probe in enumerate(measured.columns.probes.tolist()):
            if probe in names:
                rows[names[probe]] = {key: column[index] for key, column in columns.items()}
        return cls(step, rows)


class Attendant(Protocol):
    """What a watch tells of a training. See `gammabeta.doctor.training.clinic.Clinic`."""

    @property
    def should_stop(self) -> bool:
        """Whether it has found an error that spoils the run."""

    @property
    def spent(self) -> float:
        """Seconds that it has taken of the training so far."""

    def limit(self, share: float | None) -> None:
        """Say which share of the run's time it may take; None for no limit."""

    def before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """A call of the model begins."""

    def after(self, model: nn.Module, args: Any, kwargs: Any, output: Any, raised: bool) -> None:
        """The call ends."""

    def step(self, number: int, loss: float | None = None) -> Iterable[Found]:
        """An optimizer step, with this loss if it is at hand, ends; return what was found."""

    def numbers(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a step are known. Called by another thread."""

    def frame(self, frame: Recorded) -> None:
        """A frame was measured. Called by another thread."""

    def copied(self) -> None:
        """The model is being copied or pickled."""

    def silence(self) -> None:
        """Only help the attendants of other processes; this one does not record."""

    def close(self) -> Iterable[Found]:
        """The run ends; return what was found."""


def scalars_of(
    extra: Mapping[str, float], numbers: Numbers, step: int, attendant: Attendant | None
) -> dict[str, float]:
    """Return the scalars of a step, and tell the attendant."""
    values = {**extra, **numbers.values()}
    if attendant is not None:
        attendant.numbers(step, values)
    return values


def is_traced() -> bool:
    """Whether torch compiles or traces what runs now, and would note what a hook does."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


Make = Callable[..., Attendant]
_MAKE: list[Make] = []


def register(make: Make) -> None:
    """Say what ``watch(doctor=True)`` makes: ``make(model, optimizer, codes, on_finding)``."""
    _MAKE[:] = [make]


def attendant(
    model: nn.Module,
    optimizer: Optimizer | None,
    doctor: bool | str | Iterable[str],
    on_finding: Callable[[Any], object] | None,
) -> Attendant | None:
    """Return the attendant that ``watch`` was asked for, or None.

    Raises:
        TypeError: ``doctor`` or ``on_finding`` has the wrong type.
        ValueError: ``doctor`` has a code that is not known; ``on_finding`` without ``doctor``.
    """
    if on_finding is not None and not callable(on_finding):
        raise TypeError(f"on_finding is a {type(on_finding).__name__}; give a function, or None")
    if not isinstance(doctor, (bool, str)):
        try:
            doctor = list(doctor)
        except TypeError:
            raise TypeError(
                f"doctor is a {type(doctor).__name__}; give True, or a list of codes"
            ) from None
    if doctor is False:
        if on_finding is not None:
            raise ValueError("on_finding needs doctor=True, or a list of codes")
        return None
    if not _MAKE:
        raise RuntimeError("doctor needs the package gammabeta.doctor; import gammabeta first")
    return _MAKE[0](model, optimizer, None if doctor is True else doctor, on_finding)
