"""Rules while a model trains: what each step was, and the rules that look at it.

`gammabeta.watch(model, path, doctor=True)` makes a `Clinic`. It notes each call of the model (its
mode, whether gradients were on, whether a gradient reached it) and which running statistics moved,
by the version counters of tensors, so that nothing waits for an accelerator. After each optimizer
step the rules get a `Step`. What a frame measured, and the loss, reach the rules from the thread
that writes the record.
"""

from __future__ import annotations

import contextlib
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gammabeta.doctor.copies import Copies
from gammabeta.doctor.counters import Counters, counted
from gammabeta.doctor.course import Course
from gammabeta.doctor.entries import Entries
from gammabeta.doctor.evidence import first_tensor
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.intent import apart
from gammabeta.doctor.loops import Loop, Spare
from gammabeta.doctor.passes import Passed, Step, added, tensors_of
from gammabeta.doctor.rule import RULES, Rule
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.signal.attending import Recorded
from gammabeta.statistics.preserve import is_preserving

_SCANS = 32
"""Most searches for copies of the model."""

__all__ = ["Clinic", "Passed", "Step", "TrainingRule", "Watched"]


class TrainingRule:
    """Base of the rules that look at a training; one object for each run.

    A rule overrides what it needs. Each method returns or yields findings. A finding is reported
    once for each layer; a rule may return the same one again.

    Args:
        watched: the run.

    Attributes:
        compares_processes: whether the rule needs the other processes of a distributed training, so
            that it also runs where nothing is recorded.
    """

    compares_processes = False

    def __init__(self, watched: Watched) -> None:
        self.watched = watched

    def begin(self) -> Iterable[Finding] | None:
        """Before the first step."""

    def called(
        self, passed: Passed, args: Any, kwargs: Any, output: Any
    ) -> Iterable[Finding] | None:
        """After each call of the model, before its backward pass. Keep it cheap."""

    def step(self, step: Step) -> Iterable[Finding] | None:
        """After each optimizer step. Keep it cheap: microseconds."""

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


class Clinic:
    """Looks at a training, and tells of each fault once.

    Args:
        model: the watched model.
        optimizer: its optimizer, or None.
        codes: rules to run, see `gammabeta.examine`; None for all.
        on_finding: called with each finding, in the training's thread; or None.

    Attributes:
        findings: what was found so far, the oldest first.
        should_stop: whether a finding is an error that training does not recover from.
        notes: rules that failed, and why.
        intended: findings that `gammabeta.intended` declared to be meant; nobody is told.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        codes: Iterable[str] | None = None,
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        self.findings: list[Finding] = []
        self.should_stop = False
        self.notes: list[str] = []
        self.intended: list[Finding] = []
        self._on_finding = on_finding
        self._said: set[tuple[str, str]] = set()
        self._arrived: deque[Finding] = deque()
        self._lock = threading.Lock()
        subject = Subject(model, optimizer)
        self.watched = Watched(model, subject, optimizer)
        self._rules: list[tuple[Rule, TrainingRule]] = []
        for rule in RULES.chosen(codes):
            if rule.kind == "training":
                self._start(rule)
        self._weights = [weakref.ref(p) for p in model.parameters()]
        self._norms = [(n.path, n.module) for n in self.watched.batch_norms]
        self._momenta = [getattr(norm, "momentum", None) for _, norm in self._norms]
        self._counters = Counters(self.watched.batch_norms)
        self._loop = Loop()
        self._entries = Entries(model, self)
        self._task = -1  # the backward pass that is under way
        self._weighed = self._settled = self._weigh()
        self._open: list[Passed | None] = []
        self._owns: weakref.WeakKeyDictionary[Any, tuple[int, frozenset[str]]] = (
            weakref.WeakKeyDictionary()
        )
        self._tally: dict[str, list[int]] = {path: [0, 0] for path in self._entries.modules}
        self._begin_step()
        self._handle = register_optimizer_step_post_hook(_Weakly(self))
        self._gone = weakref.finalize(self, self._handle.remove)
        self._gone.atexit = False
        self._copied, self._scans = False, 0
        self._last_input: weakref.ref[Tensor] | None = None
        self._inputs = 0
        self._stepping = False
        with self._noting():
            self._scan(fresh=True)
        self._collect("begin")

    def _start(self, rule: Rule) -> None:
        try:
            self._rules.append((rule, rule.check(self.watched)))
        except Exception as error:
            self._failed(rule, error)

    # What the watch calls. A fault in here must not end a training: it becomes a note.

    def before(self, model: nn.Module, args: Any, kwargs: Any, path: str = "") -> None:
        """A call of the model begins, or of the part of it at ``path``."""
        with self._noting():
            if path == "":
                self._open.clear()  # what is left of a call that was interrupted
            self._open.append(None if self._open else self._called(path, model, args, kwargs))

    def after(
        self, model: nn.Module, args: Any, kwargs: Any, output: Any, raised: bool, path: str = ""
    ) -> None:
        """The call ends."""
        with self._noting():
            passed = self._open.pop() if self._open else None
            if passed is None:  # inside another call
                return
            passed.updates = self._counters.grown()
            added(self._updates, passed.updates)
            passed.raised = raised
            if is_preserving():
                return
            if passed.grad:
                passed.traceable = self._follow(passed, output)
            self._passes.append(passed)
            if not raised:
                self._collect("called", passed, args, kwargs, output)

    def step(self, number: int) -> list[Finding]:
        """An optimizer step ends. Return what was found since the last one."""
        with self._noting():
            self._step(number)
        return self.deliver()

    def numbers(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a step are known; called by the thread that writes the record."""
        with self._noting():
            if "loss" in scalars:
                self.watched.course.add_loss(step, scalars["loss"])
            self._collect("numbers", step, scalars)

    def frame(self, frame: Recorded) -> None:
        """A frame was measured; called by the thread that writes the record."""
        with self._noting():
            self.watched.course.add_frame(frame)
            self._collect("frame", frame)

    def close(self) -> list[Finding]:
        """The run ends: remove the hooks. Return the last findings."""
        self._gone()
        with self._noting():
            self._entries.remove()
            self.watched.pending = self._passes
            self._scan(fresh=False)
            loop = [*self._loop.take(self._passes, self._tally), *self._loop.finish()]
            self.watched.spares = loop
            self._collect("end")
        return self.deliver()

    def silence(self) -> None:
        """Keep only the rules that compare processes, and tell nobody."""
        self._gone()
        self._entries.remove()
        self._on_finding = None
        self._rules = [(rule, each) for rule, each in self._rules if each.compares_processes]

    def copied(self) -> None:
        """The model is being copied; the copy is looked for at the end of the step."""
        self._copied = True

    def _scan(self, *, fresh: bool) -> None:
        """Look for copies of the model, if a rule is interested."""
        self._copied = False
        if self._scans < _SCANS and any(rule.code in ("GB308", "GB309") for rule, _ in self._rules):
            self._scans += 1
            self.watched.copies.scan(self.watched.steps, fresh=fresh)

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            note = f"the clinic failed: {type(error).__name__}: {error}"
            if note not in self.notes:
                self.notes.append(note)

    # Calls

    def _called(self, path: str, model: nn.Module, args: Any, kwargs: Any) -> Passed:
        again = torch._C._current_graph_task_id() != -1
        self._account("recomputed" if again else "outside")
        x = first_tensor(list(args) + list(kwargs.values()))
        grad = torch.is_grad_enabled()
        own, foreign = self._tally[path]
        weights = self._weigh()
        swapped = not self._optimizer_steps and weights != self._settled
        self._weighed = weights
        return Passed(
            training=model.training,
            grad=grad,
            size=int(x.shape[0]) if x is not None and x.dim() else 0,
            norms_training=sum(norm.training for _, norm in self._norms),
            weights=weights,
            stepped=self._optimizer_steps,
            path=path,
            number=self.watched.steps + 1,
            own=own,
            foreign=foreign,
            recomputed=again,
            source=self._source(x),
            collecting=not grad and (swapped or self._momenta != self._now_momenta()),
        )

    def _source(self, x: Tensor | None) -> tuple[object, ...] | None:
        """A number that is that of the call before if its input was the same tensor."""
        if x is None:
            return None
        if self._last_input is None or self._last_input() is not x:
            self._last_input = weakref.ref(x)
            self._inputs += 1
        return (self._inputs,)

    def _weigh(self) -> int:
        return sum(p._version for ref in self._weights if (p := ref()) is not None)

    def _now_momenta(self) -> list[Any]:
        return [getattr(norm, "momentum", None) for _, norm in self._norms]

    def _follow(self, passed: Passed, output: Any) -> bool:
        """Note which backward passes reach the output; return whether that can be known."""
        found = False
        for y in tensors_of(output):
            if y.requires_grad and y.grad_fn is not None:
                y.register_hook(_Reached(passed, self))  # type: ignore[no-untyped-call]
                found = True
        return found

    def _account(self, kind: str) -> None:
        """Say where the updates since the last time came from."""
        grown = self._counters.grown()
        if not grown:
            return
        if kind == "outside":
            loaded = self._weigh() != self._weighed and not self._optimizer_steps
            if loaded or not counted(grown.values()) or is_preserving():
                return
        added(self._updates, grown)
        added(self._outside if kind == "outside" else self._recomputed, grown)

    def _backward_begins(self, task: int) -> None:
        if task == self._task:
            return
        self._task = task
        self._account("outside")
        engine = torch.autograd.Variable._execution_engine
        engine.queue_callback(_Ended(self))

    def _backward_ends(self) -> None:
        self._task = -1
        self._account("recomputed")

    # Steps

    def _begin_step(self) -> None:
        self._passes: list[Passed] = []
        self._optimizer_steps = self._own_steps = 0
        self._updates: dict[str, int] = {}
        self._outside: dict[str, int] = {}
        self._recomputed: dict[str, int] = {}
        self._without_gradient: set[str] = set()

    def _step(self, number: int) -> None:
        self._account("outside")
        self._stepping = self._stepping or self._own_steps > 0
        if not self._stepping:  # an optimizer that is none of torch's: this is its step
            for tally in self._tally.values():
                tally[0] += 1
        step = Step(
            number=number,
            passes=self._passes,
            updates=self._updates,
            modes={path: bool(norm.training) for path, norm in self._norms},
            optimizer_steps=self._optimizer_steps,
            rates=_rates(self.watched.optimizer),
            own_steps=self._own_steps,
            outside=self._outside,
            recomputed=self._recomputed,
            without_gradient=frozenset(self._without_gradient),
        )
        self._begin_step()
        self._weighed = self._settled = self._weigh()
        self._open.clear()
        self.watched.steps = number
        self.watched.spares = self._loop.take(step.passes, self._tally)
        if self._copied:
            self._scan(fresh=True)
        self._collect("step", step)
        self.watched.own_steps = 0
        if step.outside or not step.passes:
            for path in self._entries.deeper():
                self._tally[path] = list(self._tally[""])
            self._owns.clear()

    def _stepped(self, optimizer: Any) -> None:
        """An optimizer, of this model or of another one, has stepped."""
        with self._noting():
            self._optimizer_steps += 1
            owners = self._owners(optimizer)
            self._own_steps += "" in owners
            self.watched.own_steps = self._own_steps
            for path, tally in self._tally.items():
                tally[path not in owners] += 1
            if "" not in owners:
                return
            for path, norm in self._norms:
                gamma = getattr(norm, "weight", None)
                if path not in self._updates or not isinstance(gamma, nn.Parameter):
                    continue
                if gamma.requires_grad and gamma.grad is None:
                    self._without_gradient.add(path)

    def _owners(self, optimizer: Any) -> frozenset[str]:
        groups = optimizer.param_groups
        size = sum(len(group["params"]) for group in groups)
        known = self._owns.get(optimizer)
        if known is None or known[0] != size:
            mine = {id(p) for group in groups for p in group["params"]}
            known = (
                size,
                frozenset(
                    path
                    for path, module in self._entries.modules.items()
                    if any(id(p) in mine for p in module.parameters())
                ),
            )
            self._owns[optimizer] = known
        return known[1]

    # Findings

    def deliver(self) -> list[Finding]:
        """Tell of the findings that have arrived, and return them."""
        told = []
        while self._arrived:
            finding = self._arrived.popleft()
            told.append(finding)
            self.findings.append(finding)
            if self._on_finding is not None:
                try:
                    self._on_finding(finding)
                except Exception as error:  # a callback must not end a training
                    with contextlib.suppress(Warning):
                        warnings.warn(f"on_finding raised {error!r}", RuntimeWarning, stacklevel=4)
        return told

    def _collect(self, method: str, *args: Any) -> None:
        for rule, checker in list(self._rules):
            if getattr(type(checker), method) is getattr(TrainingRule, method):
                continue
            try:
                for finding in getattr(checker, method)(*args) or ():
                    self._add(rule, finding)
            except Exception as error:
                self._failed(rule, error)
                with contextlib.suppress(ValueError):
                    self._rules.remove((rule, checker))

    def _add(self, rule: Rule, finding: Finding) -> None:
        with self._lock:
            key = (rule.code, finding.layer)
            if key in self._said:
                return
            self._said.add(key)
        step = self.watched.steps if finding.step is None else finding.step
        finding = replace(finding, code=rule.code, name=rule.name, step=step)
        unknown, meant = apart([finding], self.watched.model)
        self.intended += meant
        self._arrived.extend(unknown)
        if unknown and finding.severity == "error":
            self.should_stop = True

    def _failed(self, rule: Rule, error: Exception) -> None:
        self.notes.append(f"{rule.code} ({rule.name}) failed: {type(error).__name__}: {error}")


class _Weakly:
    """The hook of all optimizers: it keeps nothing alive."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = weakref.ref(clinic)

    def __call__(self, optimizer: Any, *_: Any) -> None:
        clinic = self._clinic()
        if clinic is not None:
            clinic._stepped(optimizer)


class _Reached:
    """A hook on an output that notes the backward passes that reach it."""

    __torch_unserializable__ = True  # a saved output leaves it out, without a warning

    def __init__(self, passed: Passed, clinic: Clinic) -> None:
        self._passed = passed
        self._clinic = weakref.ref(clinic)

    def __call__(self, gradient: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        task = torch._C._current_graph_task_id()
        if task in self._passed.tasks:
            return
        self._passed.tasks.append(task)
        self._passed.backward += 1
        clinic = self._clinic()
        if clinic is not None:
            with clinic._noting():
                clinic._backward_begins(task)


class _Ended:
    """Called when a backward pass has ended."""

    def __init__(self, clinic: Clinic) -> None:
        self._clinic = weakref.ref(clinic)

    def __call__(self) -> None:
        clinic = self._clinic()
        if clinic is not None:
            with clinic._noting():
                clinic._backward_ends()


def _rates(optimizer: torch.optim.Optimizer | None) -> tuple[float, ...]:
    if optimizer is None:
        return ()
    return tuple(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)
