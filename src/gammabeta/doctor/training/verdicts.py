"""The findings of the rules of a training: each is told once, in the training's own thread."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.intent import apart
from gammabeta.doctor.rule import Rule
from gammabeta.doctor.training.watched import TrainingRule, Watched


class Verdicts:
    """Runs the rules of a training, and collects what they find.

    Args:
        watched: the run.
        rules: the rules to run.
        on_finding: called with each finding, in the training's thread; or None.

    Attributes:
        findings: what was told so far, the oldest first.
        notes: rules that failed, and why.
        intended: findings that `gammabeta.intended` declared to be meant; nobody is told.
        should_stop: whether a finding is an error.
    """

    def __init__(
        self,
        watched: Watched,
        rules: Iterable[Rule],
        on_finding: Callable[[Finding], object] | None = None,
    ) -> None:
        self.findings: list[Finding] = []
        self.notes: list[str] = []
        self.intended: list[Finding] = []
        self.should_stop = False
        self._watched = watched
        self._on_finding = on_finding
        self._said: set[tuple[str, str]] = set()
        self._arrived: deque[Finding] = deque()
        self._lock = threading.Lock()
        self._rules: list[tuple[Rule, TrainingRule]] = []
        self._with: dict[str, list[tuple[Rule, TrainingRule]]] = {}
        for rule in rules:
            try:
                self.add(rule, rule.check(watched))
            except Exception as error:
                self._failed(rule, error)

    @property
    def codes(self) -> frozenset[str]:
        """Codes of the rules that run."""
        return frozenset(rule.code for rule, _ in self._rules)

    def add(self, rule: Rule, checker: TrainingRule) -> None:
        """Let ``checker`` run, too."""
        self._rules.append((rule, checker))
        self._with = {}

    def silence(self) -> None:
        """Keep only the rules that compare processes, and tell nobody."""
        self._on_finding = None
        self._rules = [(rule, each) for rule, each in self._rules if each.compares_processes]
        self._with = {}

    def collect(self, method: str, *args: Any, comparing: bool = False) -> None:
        """Call a method of the rules that have it; ``comparing``: of those of processes only."""
        rules = self._with.get(method)
        if rules is None:
            base = getattr(TrainingRule, method)
            rules = [each for each in self._rules if getattr(type(each[1]), method) is not base]
            self._with[method] = rules
        for rule, checker in rules:
            if comparing and not checker.compares_processes:
                continue
            try:
                for finding in getattr(checker, method)(*args) or ():
                    self._add(rule, finding)
            except Exception as error:
                self._failed(rule, error)
                self._rules = [each for each in self._rules if each[1] is not checker]
                self._with = {}

    def deliver(self) -> list[Finding]:
        """Tell of the findings that have arrived, and return them."""
        told: list[Finding] = []
        while self._arrived:
            finding = self._arrived.popleft()
            told.append(finding)
            self.findings.append(finding)
            if self._on_finding is not None:
                try:
                    self._on_finding(finding)
                except Exception as error:  # a callback must not end a training
                    with contextlib.suppress(Warning):
                        warnings.warn(f"on_finding raised {error!r}", RuntimeWarning, stacklevel=5)
        return told

    def _add(self, rule: Rule, finding: Finding) -> None:
        with self._lock:
            key = (rule.code, finding.layer)
            if key in self._said:
                return
            self._said.add(key)
        step = self._watched.steps if finding.step is None else finding.step
        finding = replace(finding, code=rule.code, name=rule.name, step=step)
        unknown, meant = apart([finding], self._watched.model)
        self.intended += meant
        self._arrived.extend(unknown)
        if unknown and finding.severity == "error":
            self.should_stop = True

    def _failed(self, rule: Rule, error: Exception) -> None:
        self.notes.append(f"{rule.code} ({rule.name}) failed: {type(error).__name__}: {error}")
