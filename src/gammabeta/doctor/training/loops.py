"""Tell apart why a model in training mode was called without a backward pass.

The calls are sorted into intervals between steps of the model's own optimizers. A call that nothing
learned from is a validation if it comes after some steps and not after others, or if it first comes
after the first step; a part of the step if it comes in each; a dummy if it comes before the first
step only. If another optimizer stepped in the interval, the output fed another network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gammabeta.doctor.training.passes import Passed

Why = Literal["evaluation", "each step", "after", "before", "twice"]

_DUMMIES = 3
"""More calls than this before the first step are a validation (a sanity check), no dummies."""
_LASTS = 4
"""Consecutive intervals after which calls count as a part of the step."""
_SEVERAL = 3
"""So many calls are a validation even if a call in each step is known already."""


@dataclass(frozen=True)
class Spare:
    """Calls in training mode that moved running statistics, and that nothing learned from.

    Attributes:
        why: ``"evaluation"``; ``"each step"``: a part of the step, before its backward pass;
            ``"after"``: likewise, after it; ``"before"``: before the first step only; ``"twice"``:
            one backward pass went through two calls, so that something did learn.
        passes: the first such calls.
        same: whether the first one had the same input as the call before it that learned.
    """

    why: Why
    passes: list[Passed]
    same: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """The batch norms that were updated."""
        return tuple(dict.fromkeys(path for p in self.passes for path in p.updates))


class Loop:
    """Sorts the calls of a training."""

    def __init__(self) -> None:
        self._of: dict[str, _Calls] = {}

    def take(self, passes: list[Passed], tally: dict[str, list[int]]) -> list[Spare]:
        """Return what became known with these calls.

        Args:
            passes: calls since the last time.
            tally: path of a module that is called → number of steps so far of its own optimizers,
                and of others.
        """
        for passed in passes:
            self._of.setdefault(passed.path, _Calls()).pending.append(passed)
        return [s for path, calls in self._of.items() for s in calls.settle(*tally[path])]

    def knows(self, path: str) -> bool:
        """Whether the module at ``path`` is known to be evaluated in training mode."""
        return path in self._of and "evaluation" in self._of[path].said

    def finish(self) -> list[Spare]:
        """Return what is known when the training ends."""
        return [s for calls in self._of.values() for s in calls.finish()]


@dataclass(eq=False)
class _Calls:
    """The calls of one module."""

    pending: list[Passed] = field(default_factory=list)
    marks: list[bool] = field(default_factory=list)
    early: list[Passed] = field(default_factory=list)
    waiting: list[Passed] = field(default_factory=list)
    waited: int = 0
    late: list[Passed] = field(default_factory=list)
    lates: int = 0
    learned: bool = False
    source: tuple[object, ...] | None = None
    same: set[Passed] = field(default_factory=set)
    fed: bool = False
    said: set[str] = field(default_factory=set)

    def settle(self, own: int, foreign: int) -> list[Spare]:
        """Look at the intervals that are over."""
        found: list[Spare] = []
        while self.pending and self.pending[0].own < own:
            first = self.pending[0].own
            interval = [p for p in self.pending if p.own == first]
            self.pending = self.pending[len(interval) :]
            end = self.pending[0].foreign if self.pending else foreign
            found += self._interval(interval, end - interval[0].foreign)
        return found

    def finish(self) -> list[Spare]:
        found: list[Spare] = []
        last = [p for p in self.pending if _is_spare(p) and not self._is_log(p)]
        if self.learned and last and not (self.fed or all(self.marks)):
            found += self._say("evaluation", last)
        if self.learned and self.waiting:
            found += self._say("evaluation", self.waiting)
        if self.lates:
            found += self._say("after", self.late)
        if self.learned and self.early and len(self.marks) == 1:
            found += self._say("evaluation" if last else "before", self.early)
        self.pending = []
        return found

    def _say(self, why: Why, passes: list[Passed]) -> list[Spare]:
        passes = [p for p in passes if p.is_finite()]  # those of a batch that was left out are not
        if why in self.said or not passes:
            return []
        if why != "evaluation" and not any(p.updates for p in passes):
            return []  # dropout without gradients in each step may well be meant
        if why == "evaluation" and self.said & {"after", "each step"} and len(passes) < _SEVERAL:
            return []  # the same call again, in a step that was not observed from its beginning
        self.said.add(why)
        return [Spare(why, passes, passes[0] in self.same)]

    def _is_log(self, p: Passed) -> bool:
        """Whether its input is that of the last call that learned."""
        return (p.source is not None and p.source == self.source) or p in self.same

    def _interval(self, passes: list[Passed], foreign: int) -> list[Spare]:
        learned = [i for i, p in enumerate(passes) if p.backward]
        spare = [i for i, p in enumerate(passes) if _is_spare(p)]
        again = sum(p.recomputed for p in passes)
        if again:  # checkpointing of the whole model: its first call is without gradients
            first_calls = [i for i in spare if not passes[i].grad][-again:]
            spare = [i for i in spare if i not in first_calls]
        self.fed = self.fed or foreign > 0
        if foreign and len(spare) <= 2 * foreign:
            spare = []
        if not learned and not spare:
            return []
        begins = learned[0] if learned else len(passes)
        logs = [i for i in spare if i < begins and self._is_log(passes[i])]
        first = [passes[i] for i in spare if i < begins and i not in logs]
        if learned:
            self.source = passes[learned[-1]].source
        after = [passes[i] for i in spare if i in logs or i > begins]
        self.same.update(passes[i] for i in logs)
        self.same.update(p for p in after if self._is_log(p))
        self.same.intersection_update([*self.late, *after])
        found: list[Spare] = []
        if after:
            self.lates += 1
            self.late = self.late or after
            if self.lates > 1:
                found += self._say("after", self.late)
        several = len(learned) > 1 and not self.fed and len(self.marks) >= _LASTS
        if several and _shares([passes[i] for i in learned]):
            found += self._say("twice", [passes[i] for i in learned])
        if not learned and not self.learned:  # nothing has been trained yet
            self.early += first
            return found
        self.learned = True
        return found + self._first(first)

    def _first(self, first: list[Passed]) -> list[Spare]:
        before, self.marks = self.marks, [*self.marks[:_LASTS], bool(first)]
        if not before:
            self.early += first
            self.marks = [bool(self.early)]
            return []
        every, never = all(before), not any(before)
        if len(before) == 1:
            if self.early and not first:
                few = len(self.early) <= _DUMMIES
                return self._say("before" if few else "evaluation", self.early)
            return self._say("evaluation", first) if first and never else []
        if every:
            return self._say("each step", self.early) if first else self._over(self.early)
        if not first:
            return self._over(self.waiting)
        self.waiting = self.waiting or first
        self.waited += 1
        if self.waited >= _LASTS and "evaluation" not in self.said:
            self.waiting = []
            return self._say("each step", first)
        return []

    def _over(self, passes: list[Passed]) -> list[Spare]:
        self.waiting, self.waited = [], 0
        if not passes or "each step" in self.said:
            return []
        return self._say("evaluation", passes)


def _is_spare(p: Passed) -> bool:
    odd = p.raised or p.recomputed or p.collecting or not p.traceable
    return p.training and (bool(p.updates) or p.drops) and not p.backward and not odd


def _shares(learned: list[Passed]) -> bool:
    """Whether one backward pass went through two calls that updated the same norm."""
    seen: dict[tuple[int, str], int] = {}
    for p in learned:
        for task in p.tasks:
            for path in p.updates:
                seen[task, path] = seen.get((task, path), 0) + 1
    return any(count > 1 for count in seen.values())
