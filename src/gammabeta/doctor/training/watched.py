"""What training rules know of a run, and the base of these rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.doctor.training.copies import Copies
from gammabeta.doctor.training.course import Course
from gammabeta.doctor.training.loops import Spare
from gammabeta.doctor.training.passes import Passed, Step
from gammabeta.signal.attending import Recorded


class TrainingRule:
    """Base of the rules that look at a training; one object for each run.

    A rule overrides what it needs. Each method returns or yields findings. A finding is reported
    once for each layer; a rule may return the same one again.

    To stay within the budget, some steps are not observed: `called` and `step` leave them out, and
    `resume` says so. See `gammabeta.doctor.training.throttle`.

    Args:
        watched: the run.

    Attributes:
        compares_processes: whether the rule needs the other processes of a distributed training, so
            that it also runs where nothing is recorded. Its `step` leaves no step out.
    """

    compares_processes = False

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def begin(self) -> Iterable[Finding] | None:
        """Before the first step."""

    def resume(self, whole: bool) -> Iterable[Finding] | None:
        """Steps were left out; forget what is compared with the step before.

        Args:
            whole: whether the next step is observed from its beginning on, which is now.
        """

    def called(
        self, passed: Passed, args: Any, kwargs: Any, output: Any
    ) -> Iterable[Finding] | None:
        """After each call of the model, before its backward pass. Keep it cheap."""

    def step(self, step: Step) -> Iterable[Finding] | None:
        """After each optimizer step. Keep it cheap: microseconds."""

    def lost(self, step: int, finite: bool | None) -> Iterable[Finding] | None:
        """The first loss that is not finite is that of a step that was not observed.

        Args:
            step: its number.
            finite: whether the inputs of its calls were finite; None if they are gone.
        """

    def numbers(self, step: int, scalars: Mapping[str, float]) -> Iterable[Finding] | None:
        """The loss and other scalars of a step; runs in the thread that writes the record."""

    def frame(self, frame: Recorded) -> Iterable[Finding] | None:
        """A frame; runs in the thread that writes the record."""

    def end(self) -> Iterable[Finding] | None:
        """After the last step."""


@dataclass(eq=False)
class Watched:
    """What training rules know of a run.

    Attributes:
        model: the watched model.
        subject: the same, with its norms.
        optimizer: the watched optimizer, or None.
        steps: number of steps so far.
        course: the losses and frames so far.
        spares: calls in training mode that nothing learned from, as far as they became known with
            the present step.
        bad_step: the first step with a call whose input was not finite; None if there was none.
        bad_loss: the first step whose loss was not finite; None if there was none.
        own_steps: number of steps of the model's optimizers since the last step ended.
        pending: calls since the last step ended; known when the training ends.
    """

    model: nn.Module
    subject: Subject
    optimizer: torch.optim.Optimizer | None
    steps: int = 0
    course: Course = field(default_factory=Course)
    spares: list[Spare] = field(default_factory=list)
    bad_step: int | None = None
    bad_loss: int | None = None
    own_steps: int = 0
    pending: list[Passed] = field(default_factory=list)

    @cached_property
    def copies(self) -> Copies:
        """Other modules of this process with the same class and shapes."""
        return Copies(self.model)

    @property
    def batch_norms(self) -> tuple[Norm, ...]:
        """Batch norms with running statistics."""
        return tuple(n for n in self.subject.batch_norms if n.running and n.running.there)
