"""Rules while a model trains: what each step was, and the rules that look at it.

`gammabeta.watch(model, path, doctor=True)` makes a `Clinic`. It notes each call of the model (its
mode, whether gradients were on, whether a gradient reached it) and which running statistics moved,
by the version counters of tensors, so that nothing waits for an accelerator. After each optimizer
step the rules get a `Step`. What a frame measured, and the loss, reach the rules from the thread
that writes the record. Within a budget, `gammabeta.doctor.training.throttle` chooses the steps.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gammabeta.doctor.evidence import first_tensor
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import RULES
from gammabeta.doctor.subject import Subject
from gammabeta.doctor.training.dropouts import Dropouts
from gammabeta.doctor.training.entries import Entries
from gammabeta.doctor.training.inputs import Inputs
from gammabeta.doctor.training.ledger import Ledger
from gammabeta.doctor.training.loops import Loop
from gammabeta.doctor.training.noting import Measured, Noting
from gammabeta.doctor.training.owners import Owners
from gammabeta.doctor.training.passes import Passed, Step, rates_of
from gammabeta.doctor.training.reached import follow
from gammabeta.doctor.training.stale import Stale
from gammabeta.doctor.training.throttle import Throttle
from gammabeta.doctor.training.verdicts import Verdicts
from gammabeta.doctor.training.watched import TrainingRule, Watched
from gammabeta.signal.attending import Recorded
from gammabeta.statistics.preserve import is_preserving

_SCANS = 32
"""Most searches for copies of the model."""

__all__ = ["Clinic", "Passed", "Step", "TrainingRule", "Watched"]


class Clinic:
    """Looks at a training, and tells of each fault once.

    Args:
        model: the watched model.
        optimizer: its optimizer, or None.
        codes: rules to run, see `gammabeta.examine`; None for all.
        on_finding: called with each finding, in the training's thread; or None.

    Attributes:
        watched: what the rules know of the run.
        verdicts: the rules, and what they found.
        throttle: the steps that are observed.
        observed: number of steps that were observed, as a whole or from some call on.
        notes: rules that failed, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        codes: Iterable[str] | None = None,
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        self.watched = Watched(model, Subject(model, optimizer), optimizer)
        chosen = RULES.chosen(codes, argument="doctor")
        rules = [rule for rule in chosen if rule.kind == "training"]
        self.verdicts = Verdicts(self.watched, rules, on_finding)
        self.notes = self.verdicts.notes
        self.throttle = Throttle()
        self.observed = 0
        self._searched = 0.0  # seconds that the searches for copies have taken
        norms = self.watched.batch_norms
        self._paths = [n.path for n in norms]
        self._norms = [n.module for n in norms]
        self._momenta = self._now_momenta()
        self._ledger = Ledger(self.watched)
        self._loop = Loop()
        self._entries = Entries(model, self)
        self._dropouts = Dropouts(model)
        self._owners = Owners(self._entries.modules)
        self._open: list[Passed | None] = []
        self._task = -1  # the backward pass that is under way
        self._modes: list[bool] = []
        self._stale = Stale(dict(zip(self._paths, self._norms, strict=True)))
        self._by_path: dict[str, bool] = {}
        self._inputs = Inputs()
        self._stepping = self._copied = self._silent = False
        self._scans = 0
        # While a step is not observed, its calls are only counted, to notice an unusual one.
        self._observing = True
        self._whole = True  # whether the step is observed from its beginning on
        self._one_more = False
        self._inside = self._calls = 0
        self._usual, self._without = 0, False  # calls of the last step; whether some had no grad
        self._begin_step()
        self._handle = register_optimizer_step_post_hook(_Weakly(self))
        self._gone = weakref.finalize(self, self._handle.remove)
        self._gone.atexit = False
        with self._noting():
            self._scan(fresh=True)
        self._searched = 0.0
        self.verdicts.collect("begin")

    @property
    def findings(self) -> list[Finding]:
        """What was found so far, the oldest first."""
        return self.verdicts.findings

    @property
    def intended(self) -> list[Finding]:
        """Findings that `gammabeta.intended` declared to be meant; nobody is told."""
        return self.verdicts.intended

    @property
    def should_stop(self) -> bool:
        """Whether a finding is an error that training does not recover from."""
        return self.verdicts.should_stop

    @property
    def spent(self) -> float:
        """Seconds that it has taken of the training so far."""
        return self.throttle.spent + self._searched

    # What the watch calls. A fault in here must not end a training: it becomes a note.

    def limit(self, share: float | None) -> None:
        """Take at most this share of the run's time; None for no limit."""
        self.throttle = Throttle(share)

    def before(self, model: nn.Module, args: Any, kwargs: Any, path: str = "") -> None:
        """A call of the model begins, or of the part of it at ``path``."""
        if not self._observing:
            unusual = False
            with self._noting():
                unusual = self._is_unusual(model, path)
                if not unusual and self._inside == 1:
                    self._inputs.remember(args, kwargs)
            if not unusual:
                return
        with self._measured():
            if not self._observing:
                self._resume(whole=False)
            if path == "":
                self._open.clear()  # what is left of a call that was interrupted
            self._open.append(None if self._open else self._called(path, model, args, kwargs))

    def after(
        self, model: nn.Module, args: Any, kwargs: Any, output: Any, raised: bool, path: str = ""
    ) -> None:
        """The call ends."""
        if not self._observing:
            self._inside -= 1
            return
        with self._measured():
            passed = self._open.pop() if self._open else None
            if passed is None:  # inside another call
                return
            passed.updates = self._ledger.in_call()
            passed.raised = raised
            if is_preserving():
                return
            if passed.grad:
                passed.traceable = follow(passed, output, self)
            self._passes.append(passed)
            if not raised:
                self.verdicts.collect("called", passed, args, kwargs, output)

    def step(self, number: int, loss: float | None = None) -> list[Finding]:
        """An optimizer step ends. Return what was found since the last one.

        Args:
            number: its number.
            loss: its loss, if it is known without waiting.
        """
        if self._observing:
            with self._measured():
                self._step(number)
        else:
            with self._noting():
                self._pass_by(number, loss)
        with self._noting():
            if self._copied:
                self._scan(fresh=True)
        with self._noting():
            if not self._silent:
                self._plan()
        return self._deliver()

    def numbers(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a step are known; called by the thread that writes the record."""
        with self._noting():
            if "loss" in scalars:
                self.watched.course.add_loss(step, scalars["loss"])
                if self.watched.bad_loss is None and not math.isfinite(scalars["loss"]):
                    self.watched.bad_loss = step
                    self._one_more = True  # look at the next step, whatever it costs
            self.verdicts.collect("numbers", step, scalars)

    def frame(self, frame: Recorded) -> None:
        """A frame was measured; called by the thread that writes the record."""
        with self._noting():
            self.watched.course.add_frame(frame)
            self.verdicts.collect("frame", frame)

    def close(self) -> list[Finding]:
        """The run ends: remove the hooks. Return the last findings."""
        self._gone()
        with self._noting():
            self._entries.remove()
            self.watched.pending = self._passes
            self._scan(fresh=False)
            loop = [*self._loop.take(self._passes, self._owners.tally), *self._loop.finish()]
            self.watched.spares = loop
            self.verdicts.collect("end")
        return self._deliver()

    def silence(self) -> None:
        """Keep only the rules that compare processes, and tell nobody."""
        self._gone()
        self._entries.remove()
        self.verdicts.silence()
        self._silent, self._observing = True, False

    def copied(self) -> None:
        """The model is being copied; the copy is looked for at the end of the step."""
        self._copied = True

    def _scan(self, *, fresh: bool) -> None:
        """Look for copies of the model, if a rule is interested."""
        self._copied = False
        if self._scans < _SCANS and self.verdicts.codes & {"GB308", "GB309"}:
            self._scans += 1
            began = self.throttle.work()
            self.watched.copies.scan(self.watched.steps, fresh=fresh)
            self._searched += self.throttle.work() - began

    def _deliver(self) -> list[Finding]:
        with self._noting():
            return self.verdicts.deliver()
        return []

    def _noting(self) -> Noting:
        return Noting(self.notes)

    def _measured(self) -> Measured:
        return Measured(self.notes, self.throttle)

    # Calls

    def _called(self, path: str, model: nn.Module, args: Any, kwargs: Any) -> Passed:
        again = torch._C._current_graph_task_id() != -1
        stepped = self._optimizer_steps
        self._ledger.account("recomputed" if again else "outside", bool(stepped))
        x = first_tensor([*args, *kwargs.values()])
        grad = torch.is_grad_enabled()
        own, foreign = self._owners.tally[path]
        weights = self._ledger.weigh()
        swapped = not stepped and weights != self._ledger.settled
        return Passed(
            training=model.training,
            grad=grad,
            size=int(x.shape[0]) if x is not None and x.dim() else 0,
            weights=weights,
            stepped=stepped,
            path=path,
            number=self.watched.steps + 1,
            own=own,
            foreign=foreign,
            recomputed=again,
            source=self._inputs.source(x),
            outside=dict(self._ledger.outside),
            drops=not grad and model.training and self._dropouts.drop(),
            collecting=not grad and (swapped or self._momenta != self._now_momenta()),
        )

    def _now_momenta(self) -> list[Any]:
        return [getattr(norm, "momentum", None) for norm in self._norms]

    def backward_begins(self, task: int) -> bool:
        """A backward pass reaches an output; return whether to call `backward_ends`."""
        if task == self._task or not self._observing:
            return False
        with self._measured():
            self._task = task
            self._ledger.account("outside", bool(self._optimizer_steps))
        return True

    def backward_ends(self) -> None:
        """The backward pass has ended."""
        self._task = -1
        if self._observing:
            with self._measured():
                self._ledger.account("recomputed", bool(self._optimizer_steps))

    # Steps

    def _begin_step(self) -> None:
        self._passes: list[Passed] = []
        self._optimizer_steps = self._own_steps = 0
        self._without_gradient: set[str] = set()

    def _step(self, number: int) -> None:
        ledger, whole = self._ledger, self._whole
        ledger.account("outside", bool(self._optimizer_steps))
        self._stepping = self._stepping or self._own_steps > 0
        if not self._stepping:  # an optimizer that is none of torch's: this is its step
            self._owners.separate()
        modes = [norm.training for norm in self._norms]
        if modes != self._modes:
            self._modes = modes
            self._by_path = {p: bool(on) for p, on in zip(self._paths, modes, strict=True)}
        step = Step(
            number=number,
            passes=self._passes,
            updates=ledger.updates,
            modes=self._by_path,
            optimizer_steps=self._optimizer_steps,
            rates=rates_of(self.watched.optimizer),
            own_steps=self._own_steps,
            outside=ledger.outside,
            recomputed=ledger.recomputed,
            without_gradient=frozenset(self._without_gradient),
        )
        self.observed += 1
        self._begin_step()
        ledger.begin()
        self._open.clear()
        self.watched.steps = number
        self.watched.spares = self._loop.take(step.passes, self._owners.tally)
        self.verdicts.collect("step", step)
        self.watched.own_steps = 0
        if whole:
            calls = [p for p in step.passes if p.training]
            self._usual, self._without = len(calls), not all(p.grad for p in calls)
            if step.outside or not step.passes:
                self._owners.deepen(self._entries.deeper())

    def _stepped(self, optimizer: Any) -> None:
        """An optimizer, of this model or of another one, has stepped."""
        if not self._observing:
            return
        with self._measured():
            self._optimizer_steps += 1
            if not self._owners.stepped(optimizer):
                return
            self._own_steps += 1
            self.watched.own_steps = self._own_steps
            updated = self._ledger.updates
            for path, norm in zip(self._paths, self._norms, strict=True):
                gamma = norm._parameters.get("weight")
                if gamma is None or not gamma.requires_grad or path not in updated:
                    continue
                if gamma.grad is None or self._stale.has(path, gamma.grad):
                    self._without_gradient.add(path)

    # Steps that are not observed

    def _pass_by(self, number: int, loss: float | None) -> None:
        self.watched.steps = number
        if loss is not None and not math.isfinite(loss) and self.watched.bad_loss is None:
            with self._measured():
                self.verdicts.collect("lost", number, self._inputs.are_finite())
        self.watched.course.add_size(number, self._inputs.examples)
        self._inputs.begin()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            self.verdicts.collect("step", Step(number, [], {}, {}, 0), comparing=True)

    def _plan(self) -> None:
        """Decide whether the next step is observed."""
        observed, self._calls, self._inside = self._observing, 0, 0
        due = self.throttle.ends(observed) or self._one_more
        self._one_more = False
        if due and not observed:
            with self._measured():
                self._resume(whole=True)
        self._observing = self._whole = due

    def _resume(self, *, whole: bool) -> None:
        """Observe again, after steps that were not."""
        if not self._observing:
            self._owners.separate()
        self._observing, self._whole, self._one_more = True, whole, not whole
        self._begin_step()
        self._open.clear()
        self._task = -1
        self._ledger.resume()
        self.verdicts.collect("resume", whole)

    def _is_unusual(self, model: nn.Module, path: str) -> bool:
        """Whether a call in a step that is not observed should be: an evaluation, for example."""
        if path == "":
            self._inside = 0
        self._inside += 1
        if self._silent or self._inside > 1 or not model.training:
            return False
        self._calls += 1
        usual = self._calls <= self._usual and (self._without or torch.is_grad_enabled())
        return not (usual or self._loop.knows(path)) and self.throttle.affords_unusual()


class _Weakly:
    """The hook of all optimizers: it keeps nothing alive."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = weakref.ref(clinic)

    def __call__(self, optimizer: Any, *_: Any) -> None:
        clinic = self._clinic()
        if clinic is not None:
            clinic._stepped(optimizer)
