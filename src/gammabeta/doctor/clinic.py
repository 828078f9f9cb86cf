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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from gammabeta.doctor.evidence import first_tensor
from gammabeta.doctor.finding import Finding
from gammabeta.doctor.intent import is_intended
from gammabeta.doctor.rule import RULES, Rule
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.signal.attending import Recorded


@dataclass(eq=False)
class Passed:
    """One call of the model.

    Attributes:
        training: the model's own mode.
        grad: whether gradients were on.
        size: number of examples: the first dim of its first tensor; 0 if unknown.
        norms_training: number of batch norms in training mode.
        weights: sum of the version counters of all parameters: it grows if they change.
        stepped: number of optimizer steps (of any optimizer) since the last step ended.
        updates: path of a batch norm → how often its running statistics were updated in the call.
        backward: number of times that a gradient reached the output (so far).
        raised: whether the call raised an error.
        finite: whether the output is finite; None if that was not looked at.
    """

    training: bool
    grad: bool
    size: int
    norms_training: int
    weights: int
    stepped: int
    updates: dict[str, int] = field(default_factory=dict)
    backward: int = 0
    raised: bool = False
    finite: bool | None = None


@dataclass(eq=False)
class Step:
    """What happened since the last optimizer step ended.

    Attributes:
        number: number of this step; the first is 1.
        passes: calls of the model, in order.
        updates: path of a batch norm → how often its running statistics were updated, in calls of
            the model or not (a recomputation in a backward pass is outside).
        modes: path of a batch norm → whether it is in training mode as the step ends.
        optimizer_steps: number of steps of any optimizer.
        rates: learning rates of the watched optimizer, by group; empty if it is unknown.
    """

    number: int
    passes: list[Passed]
    updates: dict[str, int]
    modes: dict[str, bool]
    optimizer_steps: int
    rates: tuple[float, ...] = ()


class TrainingRule:
    """Base of the rules that look at a training; one object for each run.

    A rule overrides what it needs. Each method returns or yields findings. A finding is reported
    once for each layer; a rule may return the same one again.

    Args:
        watched: the run.
    """

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
    """

    model: nn.Module
    subject: Subject
    optimizer: torch.optim.Optimizer | None
    steps: int = 0

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
        self._norms = [(n.path, n.module, _counter(n)) for n in self.watched.batch_norms]
        self._versions = self._now()
        self._passes: list[Passed] = []
        self._open: list[tuple[Passed, dict[str, int]]] = []
        self._optimizer_steps = 0
        self._handle = register_optimizer_step_post_hook(self._stepped)
        self._collect("begin")

    def _start(self, rule: Rule) -> None:
        try:
            self._rules.append((rule, rule.check(self.watched)))
        except Exception as error:
            self._failed(rule, error)

    # What the watch calls

    def before(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """A call of the model begins."""
        x = first_tensor(list(args) + list(kwargs.values()))
        passed = Passed(
            training=model.training,
            grad=torch.is_grad_enabled(),
            size=int(x.shape[0]) if x is not None and x.dim() else 0,
            norms_training=sum(norm.training for _, norm, _ in self._norms),
            weights=sum(p._version for ref in self._weights if (p := ref()) is not None),
            stepped=self._optimizer_steps,
        )
        self._open.append((passed, self._now()))

    def after(self, model: nn.Module, args: Any, kwargs: Any, output: Any, raised: bool) -> None:
        """The call ends."""
        if not self._open:
            return
        passed, before = self._open.pop()
        passed.updates = _grown(before, self._now())
        passed.raised = raised
        y = first_tensor(output)
        if y is not None and y.requires_grad and y.grad_fn is not None:
            y.register_hook(_Reached(passed))  # type: ignore[no-untyped-call]
        self._passes.append(passed)
        if not raised:
            self._collect("called", passed, args, kwargs, output)

    def step(self, number: int) -> list[Finding]:
        """An optimizer step ends. Return what was found since the last one."""
        now = self._now()
        step = Step(
            number=number,
            passes=self._passes,
            updates=_grown(self._versions, now),
            modes={path: bool(norm.training) for path, norm, _ in self._norms},
            optimizer_steps=self._optimizer_steps,
            rates=_rates(self.watched.optimizer),
        )
        self._passes, self._versions, self._optimizer_steps = [], now, 0
        self._open.clear()
        self.watched.steps = number
        self._collect("step", step)
        return self.deliver()

    def numbers(self, step: int, scalars: Mapping[str, float]) -> None:
        """The scalars of a step are known; called by the thread that writes the record."""
        self._collect("numbers", step, scalars)

    def frame(self, frame: Recorded) -> None:
        """A frame was measured; called by the thread that writes the record."""
        self._collect("frame", frame)

    def close(self) -> list[Finding]:
        """The run ends: remove the hook. Return the last findings."""
        self._handle.remove()
        self._collect("end")
        return self.deliver()

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
            if key in self._said or is_intended(rule.code, self.watched.model, finding.layer):
                return
            self._said.add(key)
        step = self.watched.steps if finding.step is None else finding.step
        self._arrived.append(replace(finding, code=rule.code, name=rule.name, step=step))
        if finding.severity == "error":
            self.should_stop = True

    def _failed(self, rule: Rule, error: Exception) -> None:
        self.notes.append(f"{rule.code} ({rule.name}) failed: {type(error).__name__}: {error}")

    # Counters

    def _now(self) -> dict[str, int]:
        return {path: version() for path, _, version in self._norms}

    def _stepped(self, *_: Any) -> None:
        self._optimizer_steps += 1


class _Reached:
    """A hook on an output that counts the gradients that reach it."""

    def __init__(self, passed: Passed) -> None:
        self._passed = passed

    def __call__(self, gradient: Tensor) -> None:
        self._passed.backward += 1


def _counter(norm: Norm) -> Callable[[], int]:
    """Return a function that counts the updates of the running statistics of ``norm``."""
    module = norm.module
    name = (
        "num_batches_tracked"
        if norm.running and norm.running.tracked is not None
        else ("running_mean")
    )

    def version() -> int:
        buffer = module._buffers.get(name)
        return 0 if buffer is None or buffer.is_inference() else int(buffer._version)

    return version


def _grown(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {path: count - before.get(path, 0) for path, count in now.items()}


def _rates(optimizer: torch.optim.Optimizer | None) -> tuple[float, ...]:
    if optimizer is None:
        return ()
    return tuple(float(group["lr"]) for group in optimizer.param_groups if "lr" in group)
