"""The doctor on one script, and what each tool's complaints have in common."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import gammabeta
from gammabeta.doctor.finding import Finding
from gammabeta.lab.bench.doctor_set import Script

OURS = "gammabeta"


@dataclass(frozen=True)
class Complaint:
    """What a tool reports.

    Attributes:
        code: code or name of the rule.
        severity: ``"info"``, ``"warning"`` or ``"error"``; every tool has these three in its words.
        layers: paths of the layers that it names.
        fix: what it proposes.
        text: in one line.
    """

    code: str
    severity: str
    layers: tuple[str, ...] = ()
    fix: str = ""
    text: str = ""

    @property
    def matters(self) -> bool:
        """Whether it is more than information."""
        return self.severity != "info"

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What two complaints have in common that say the same."""
        return self.code, self.severity, self.layers


@dataclass
class Seen:
    """What a tool reported about one twin.

    Attributes:
        complaints: all of them.
        passes: forward passes of the examination; 0 if nothing was examined on batches.
        seconds: wall-clock time, with the script itself.
        notes: what the tool could not do, and why.
    """

    complaints: list[Complaint] = field(default_factory=list)
    passes: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def of(self, code: str) -> list[Complaint]:
        """Return the complaints of one rule."""
        return [each for each in self.complaints if each.code == code]

    @property
    def alarms(self) -> list[Complaint]:
        """The complaints that are more than information."""
        return [each for each in self.complaints if each.matters]


def complaint(finding: Finding) -> Complaint:
    """Return a finding of the doctor as a complaint."""
    return Complaint(finding.code, finding.severity, finding.layers, finding.fix, finding.text)


def ours(script: Script, faulty: bool) -> Seen:
    """Run the doctor on a script: `gammabeta.examine`, ``watch(doctor=True)``, or both."""
    seen = Seen()
    began = time.perf_counter()
    with quiet():
        arguments = script.build(faulty) if script.builds else _watched(script, faulty, seen)
        if arguments is not None:
            report = gammabeta.examine(**arguments, progress=False)
            seen.complaints += map(complaint, report.findings)
            seen.passes, seen.notes = report.passes, seen.notes + report.notes
    seen.seconds = time.perf_counter() - began
    return seen


def _watched(script: Script, faulty: bool, seen: Seen) -> dict[str, Any] | None:
    """Train under the doctor's eyes; return what the script gives to examine."""
    signals: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:

        def watch(model: Any, **options: Any) -> Any:
            path = Path(folder) / f"record-{len(signals)}"
            signals.append(gammabeta.watch(model, path, doctor=True, **options))
            return signals[-1]

        try:
            arguments = script.train(faulty, watch)
        finally:
            for signal in signals:
                signal.close()
    for signal in signals:
        seen.complaints += map(complaint, signal.findings)
        seen.notes += list(getattr(signal._attendant, "notes", ()))
    if not signals:
        raise ValueError(f"{script.path} never calls watch(model, optimizer=...)")
    return arguments


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore the warnings of scripts and tools, and give the random states back."""
    threads = torch.get_num_threads()
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            torch.set_num_threads(threads)
