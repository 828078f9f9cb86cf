"""A model that is being watched: its hooks, its steps, and what happens if something fails."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.signal import uncompiled
from gammabeta.signal.attending import Attendant, Found, is_traced, scalars_of
from gammabeta.signal.capture import Capture
from gammabeta.signal.drafting import Drafting
from gammabeta.signal.frame import Draft
from gammabeta.signal.hook import Hook
from gammabeta.signal.modules import Known
from gammabeta.signal.pace import Pace
from gammabeta.signal.record import Measured, Record, status_after
from gammabeta.signal.regions import is_compiled, regions
from gammabeta.signal.sampling import PHASES
from gammabeta.signal.saying import Warnings, unseen, why_nothing
from gammabeta.signal.scalars import LossScale, Numbers, learning_rates
from gammabeta.signal.wanted import Wanted

_BACKLOG = 4
"""Frames that may wait for the disk; further ones wait for their turn, or are left out."""


class Watch:
    """A model that is being watched; created by `gammabeta.watch`.

    Attributes:
        record: the record that the frames are written to.
        steps: number of optimizer steps so far.
        findings: what the doctor has found so far (with ``doctor=True``), the oldest first.
    """

    record: Record
    steps: int
    findings: list[Any]

    def __init__(
        self,
        model: nn.Module,
        record: Record,
        arm: str,
        pace: Pace,
        owned: bool,
        wanted: Wanted,
        optimizer: torch.optim.Optimizer | None,
        look_inside: bool,
        attendant: Attendant | None = None,
    ) -> None:
        self.record = record
        self.findings = []
        self._attendant: Any = attendant
        self._attends = attendant is not None
        if attendant is not None:
            attendant.limit(None if pace.budget is None else pace.budget / 2)
        self.steps = record.last_step(arm)
        self._arm = record.arm(arm)
        self._drafting = Drafting(model, record, arm, wanted, optimizer)
        self._pace = pace
        self._owned = owned
        self._model = model
        self._wanted = wanted
        self._optimizer = optimizer
        self._look_inside = look_inside
        self._began = time.monotonic()
        self._scale = LossScale()
        self._busy = record.busy
        self._warnings = Warnings()
        self._failed = False
        self._passing: Capture | None = None  # the current pass
        self._passed: Capture | None = None  # the pass that this step will record
        self._known = Known()
        self._outer: BaseException | None = None
        self._holds = False  # whether compiled code runs uncompiled in this pass
        self._undo: list[Callable[[], None]] = []
        # These two hooks stay; those that measure exist only while a pass is being captured.
        self._handles = [
            model.register_forward_pre_hook(Hook(self._begin), with_kwargs=True),
            model.register_forward_hook(Hook(self._end), with_kwargs=True, always_call=True),
        ]
        if look_inside and vars(model).get("_compiled_call_impl") is not None:
            self._undo.append(uncompiled.choose(model, self._is_measured))
        self._collects = False  # whether to turn the garbage collector on after the pass
        self._due = False
        self._plan()

    # What a person calls.

    def step(
        self,
        loss: Tensor | float | None = None,
        *,
        scaler: Any = None,
        **scalars: Tensor | float,
    ) -> None:
        """End an optimizer step: record its scalars, and its signals if the step is a frame.

        Args:
            loss: loss of this step.
            scaler: the `torch.amp.GradScaler` of mixed precision; gradients are then recorded
                unscaled, and the loss scale as a scalar.
            **scalars: more numbers of this step, for example ``accuracy``; drawn as curves.
                Infinite numbers and NaN are allowed.

        Raises:
            ValueError: an argument has several elements, or is too large for a float.
            TypeError: an argument is not a number.
        """
        began = time.perf_counter()
        numbers = Numbers(dict(scalars) if loss is None else {"loss": loss, **scalars})
        self.steps += 1
        extra: dict[str, float] = {}
        if self._optimizer is not None:
            with contextlib.suppress(Exception):  # an optimizer of a kind of its own
                extra = learning_rates(self._optimizer)
        scale = self._scale.of(scaler, self._due)
        draft = self._draft(scale) if self._due and not self._failed else None
        if draft is not None and scaler is not None:
            extra["loss scale"] = scale
        if self._due and draft is None and not self._failed:
            self._warnings.say(why_nothing(self._passed, self._model.training))
        self._passed = None
        self._drafting.drop()
        seconds = time.monotonic() - self._began
        if self._attends:  # before it gets the numbers of this step
            self._tell(self._attendant.step(self.steps, numbers.at_hand("loss")))
            self._pace.others = self._attendant.spent
        self.record.write(
            self._arm,
            self.steps,
            partial(scalars_of, extra, numbers, self.steps, self._attendant),
            None if draft is None else partial(self._measured, draft, self.steps),
            seconds,
        )
        if self.record.error is not None:
            self._warnings.say(
                f"recording stopped, training continues: {self.record.path}: {self.record.error}"
            )
        if self.record.lost is not None:
            self._warnings.say(f"a frame was lost, training continues: {self.record.lost!r}")
        if draft is not None:
            self._drafting.frames += 1
            self._pace.charge(draft.seconds + time.perf_counter() - began)
            self._pace.taken(time.monotonic() - self._began)
        self._plan()

    def mark(self, text: str) -> None:
        """Put a mark at the current step, for example ``signal.mark("lr drop")``.

        Raises:
            TypeError: ``text`` is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"text is a {type(text).__name__}; give a few words, such as 'lr drop'")
        self.record.mark(self._arm, self.steps, text)

    @property
    def should_stop(self) -> bool:
        """Whether the doctor has found an error that spoils the run; False without a doctor."""
        return self._attendant is not None and self._attendant.should_stop

    @property
    def overhead(self) -> float:
        """Share of the run's time that recording has taken so far, as the watch measures it."""
        spent = self._pace.spent + self._pace.others
        return spent / max(1e-9, time.monotonic() - self._began)

    def close(self, status: str = "finished") -> None:
        """Remove the hooks from the model, and close the record if this watch created it."""
        self._detach()
        self._dismiss()
        if self._owned:
            self.record.close(status, {"overhead": round(self.overhead, 6)})

    def _dismiss(self) -> None:
        """Let the doctor go, who may have hooks of its own."""
        attends, self._attends = self._attends, False
        if attends:
            with contextlib.suppress(Exception):
                self.record.flush()  # the last numbers reach it
            with contextlib.suppress(Exception):
                self._tell(self._attendant.close())

    # A step.

    def _plan(self) -> None:
        """Decide whether the next step is a frame, and begin to measure its parameters."""
        began = time.perf_counter()
        self._pace.charge(self.record.busy - self._busy)
        self._busy = self.record.busy
        if self._failed:
            self._due = False
            return
        held_up = self.record.backlog >= _BACKLOG
        seconds = time.monotonic() - self._began
        self._due = self._pace.due(self.steps + 1, seconds, held_up)
        if self._due:
            self._guarded(self._drafting.begin, self._pace.dear)
            self._pace.charge(time.perf_counter() - began)

    def _draft(self, scale: float) -> Draft | None:
        """Return the samples of this step; None if there are none."""
        passed = self._passed
        if passed is not None and passed.error is not None:
            self._fail(passed.error)
            return None
        if passed is None and not is_compiled(self._model):
            return None
        if passed is not None and not passed.rows and passed.unseen:
            return None
        draft = self._drafting.draft(scale)
        done = self._guarded(self._drafting.fill, draft, passed)
        if not done or draft.is_empty():
            return None
        if passed is not None and not passed.rows:
            passed.unseen["the model"] = "no function with weights was seen; is it compiled?"
        if self._drafting.frames == 0:
            for message in unseen(passed, regions(self._model, self._look_inside)):
                self._warnings.say(message)
        return draft

    # The doctor.

    def _tell(self, found: Iterable[Found]) -> None:
        for each in found:
            self.findings.append(each)
            step = self.steps if each.step is None else each.step
            try:
                self.record.finding(self._arm, step, each.text, each.as_dict())
            except Exception as e:  # a finding of a rule of somebody else may have no text
                self._warnings.say(f"a finding was not recorded, training continues: {e!r}")

    def _measured(self, draft: Draft, step: int) -> Measured:
        measured = draft.measure()
        if self._attendant is not None:
            self._attendant.frame(self._drafting.recorded(measured, step))
        return measured

    # Passes.

    def _begin(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        if torch.compiler.is_compiling():  # inside a compiled model
            return
        if self._attends and not is_traced():
            self._guarded(self._attendant.before, model, args, kwargs)
        self._guarded(self._start, model, args, kwargs)

    def _start(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        self._stop()  # in case the last pass never ended
        if not (model.training and self._handles and self._passed is None and self._due):
            return
        began = time.perf_counter()
        if self._look_inside:
            self._holds = True
            uncompiled.hold()
        self._outer = sys.exc_info()[1]
        self._passing = Capture(
            regions(model, self._look_inside),
            self._drafting.names,
            self._wanted,
            self._known,
            self._pace.sample,
            self._drafting.frames % PHASES,
        )
        self._pause_collector()
        self._passing.attach(model)
        self._passing.enter(model, args, kwargs)
        self._passing.seconds = time.perf_counter() - began

    def _end(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling():
            return
        passing = self._passing
        raised = sys.exc_info()[1] is not self._outer
        if passing is not None and not raised:
            self._guarded(passing.leave, model, args, kwargs, output)
            self._passed = passing
            self._guarded(self._drafting.passed)
        self._stop()
        if self._attends and not is_traced():  # last: it may run the model's modules
            failed = output is None and sys.exc_info()[1] is not None
            self._guarded(self._attendant.after, model, args, kwargs, output, failed)

    def _stop(self) -> None:
        """End the current pass, if there is one."""
        passing, self._passing = self._passing, None
        if passing is not None:
            passing.detach()
        if self._holds:
            self._holds = False
            uncompiled.release()
        if self._collects:
            self._collects = False
            gc.enable()

    def _pause_collector(self) -> None:
        """Pause the garbage collector for this pass: thousands of small objects would start it."""
        self._collects = gc.isenabled()
        gc.disable()

    def _is_measured(self) -> bool:
        return self._due and self._passed is None

    # What can go wrong.

    def _guarded(self, do: Callable[..., None], *args: Any) -> bool:
        """Call ``do``; if it fails, stop measuring and say why. Return whether it succeeded."""
        try:
            do(*args)
        except Exception as e:
            self._fail(f"{type(e).__name__}: {e}")
            return False
        return True

    def _fail(self, why: str) -> None:
        """Stop measuring for good; training goes on, and its scalars are recorded."""
        self._failed = True
        with contextlib.suppress(Exception):
            self._detach()
        self._dismiss()
        self._warnings.say(f"a signal could not be measured, training continues unwatched: {why}")

    def _detach(self) -> None:
        """Leave no trace in the model."""
        try:
            self._stop()
        finally:
            for handle in self._handles:
                handle.remove()
            self._handles.clear()
            for undo in self._undo:
                undo()
            self._undo.clear()
            self._passed = None
            self._drafting.drop()

    # Copies.

    def __reduce__(self) -> tuple[Any, ...]:
        # A watched model may be copied (for example, to average weights) or pickled, together with
        # its hooks. The copy is not watched.
        from gammabeta.signal.inert import InertWatch  # which is a Watch

        return InertWatch, ("it is a copy, and watches nothing",)

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(status_after(kind))
