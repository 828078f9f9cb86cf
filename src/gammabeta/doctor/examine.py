"""Examine a model: run the rules on it, and leave it as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from typing import Any

import torch
from torch import nn

from gammabeta.doctor.evidence import PASSES, Evidence, SpentError
from gammabeta.doctor.finding import Finding, merged
from gammabeta.doctor.intent import is_intended
from gammabeta.doctor.report import Report
from gammabeta.doctor.rule import RULES, Rule
from gammabeta.doctor.subject import Subject
from gammabeta.statistics.preserve import preserved
from gammabeta.statistics.progress import track


def examine(
    model: Any,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    forward: Callable[[Any], Any] | None = None,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] | None = None,
    progress: bool | None = None,
) -> Report:
    """Find normalization bugs in a model, with evidence and the fix.

    Without batches the model is only read. With batches, at most 20 forward passes are run on the
    first ones, without gradients. The model comes back bit-identical: parameters, buffers, modes,
    hooks and random states; also if a rule fails, which becomes a note in the report.

    Args:
        model: any module, or a `torch.export.ExportedProgram`.
        batches: tensors; tuples or lists, whose first item is the input and whose last one is the
            target; mappings of keyword arguments; with ``forward``, anything. Best a training
            data loader.
        loss: ``loss(output, target)``, or ``loss(output)`` for batches without a target; it returns
            a scalar. With it, the damage is measured. Without it, an output's ``loss`` is used if
            there is one.
        optimizer: the model's optimizer, for rules about weight decay and learning rates.
        forward: called with each batch in place of ``model``; it runs the model and returns its
            output.
        select: codes of the rules to run, or beginnings such as ``"GB1"``; None for all.
        ignore: codes not to run, likewise.
        progress: None for a bar on stderr if it is a terminal and the work takes longer than two
            seconds; True for a bar in any case; False for none.

    Returns:
        The report: ``print(report)``, ``report.findings``, ``report.raise_on("error")``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: no batch; a code that is not known; a model on the ``meta`` device; a loss that
            is no scalar; a batch that the model does not accept.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        >>> print(examine(model))  # doctest: +ELLIPSIS
        Sequential: healthy (1 norm, ... rules)
    """
    exported = None if isinstance(model, nn.Module) else _program(model)
    _check(loss, optimizer, forward)
    network: nn.Module = exported.graph_module if exported is not None else model
    subject = Subject(network, optimizer, loss, exported)
    rules = [rule for rule in RULES.chosen(select, ignore) if rule.kind != "training"]
    if batches is None:
        rules = [rule for rule in rules if rule.kind != "batches"]
    else:
        _refuse_meta(network)
    with preserved(network):
        found = _examined(subject, rules, batches, forward, progress)
    notes = [f"rules of {name} could not be loaded: {why}" for name, why in RULES.failed.items()]
    meant = [f for f in found.findings if _is_meant(f, network)]
    return Report(
        findings=merged(f for f in found.findings if f not in meant),
        notes=[*notes, *dict.fromkeys(subject.notes)],
        intended=merged(meant),
        checked=tuple(rule.code for rule in rules),
        model=type(model).__name__,
        norms=len(subject.norms),
        passes=found.passes,
    )


@dataclasses.dataclass
class _Found:
    findings: list[Finding]
    passes: int = 0


def _examined(
    subject: Subject,
    rules: list[Rule],
    batches: Iterable[Any] | None,
    forward: Callable[[Any], Any] | None,
    progress: bool | None,
) -> _Found:
    found = _Found([])
    if batches is None:
        for rule in rules:
            found.findings += findings_of(rule, subject, subject)
        return found
    with closing(track(range(PASSES), "examining", PASSES, show=progress)) as bar:
        evidence = Evidence(subject, batches, forward, partial(_advance, bar))
        if not evidence.batches:
            raise ValueError("batches is empty; give at least one batch, or None")
        _first_pass(evidence)
        for rule in rules:
            args = (subject, evidence) if rule.kind == "batches" else (subject,)
            found.findings += findings_of(rule, subject, *args)
        found.passes = evidence.spent
    return found


def findings_of(rule: Rule, subject: Subject, *args: Any) -> list[Finding]:
    """Return what ``rule`` finds; if it fails, add a note to the subject instead."""
    found: list[Finding] = []
    try:
        for each in rule.check(*args) or ():
            found.append(dataclasses.replace(each, code=rule.code, name=rule.name))
    except SpentError:
        subject.notes.append(f"{rule.code} ({rule.name}) was left out: no forward pass was left")
    except Exception as error:
        subject.notes.append(f"{rule.code} ({rule.name}) failed: {_line(error)}")
    return found


def _first_pass(evidence: Evidence) -> None:
    """Run the first batch in evaluation, so that bad input is an error and not a note a rule."""
    try:
        _ = evidence.evaluated
    except ValueError as error:
        if str(error).startswith("loss returned"):
            raise
        raise _refused(evidence, error) from error
    except Exception as error:
        raise _refused(evidence, error) from error


def _refused(evidence: Evidence, error: Exception) -> ValueError:
    shape = getattr(evidence.input(0), "shape", None)
    about = f"of shape {tuple(shape)}" if shape is not None else "without a tensor"
    return ValueError(
        f"batches: the model does not accept the first batch ({about}): {_line(error)}; give "
        "batches as the model is called with, or forward="
    )


def _line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _is_meant(finding: Finding, model: nn.Module) -> bool:
    return is_intended(finding.code, model, finding.layer)


def _program(model: Any) -> Any:
    if isinstance(model, torch.export.ExportedProgram):
        return model
    raise TypeError(
        f"model is a {type(model).__name__}; give a torch.nn.Module or an ExportedProgram"
    )


def _check(loss: Any, optimizer: Any, forward: Any) -> None:
    for name, value, what in (
        ("loss", loss, "a function of output and target"),
        ("forward", forward, "a function that is called with each batch"),
    ):
        if value is not None and not callable(value):
            raise TypeError(f"{name} is a {type(value).__name__}; give {what}, or None")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; give a torch optimizer or None"
        )


def _refuse_meta(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(
                f"{name!r} of the model is on the meta device and has no values; load the weights "
                "first, or examine without batches"
            )


def _advance(bar: Generator[int, None, None]) -> None:
    next(bar, None)
