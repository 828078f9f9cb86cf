"""Examine a model: run the rules on it, and leave it as it was."""

from __future__ import annotations

import dataclasses
import re
import sys
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from gammabeta.doctor.evidence import PASSES, Evidence, LossError, SpentError
from gammabeta.doctor.finding import Finding, merged
from gammabeta.doctor.intent import apart
from gammabeta.doctor.model.raising import refusing_norm
from gammabeta.doctor.report import Report
from gammabeta.doctor.rule import RULES, Rule
from gammabeta.doctor.subject import Subject
from gammabeta.doctor.untouched import untouched
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
        optimizer: the model's optimizer, for rules about weight decay and about what is trained.
        forward: ``forward(batch)`` runs the model on a batch and returns its output, for batches
            of any form.
        select: codes of the rules to run, or beginnings such as ``"GB1"``; None for all.
        ignore: codes not to run, likewise.
        progress: None for a bar on stderr if it is a terminal and the work takes longer than two
            seconds; True for a bar in any case; False for none.

    Returns:
        The report: ``print(report)``, ``report.findings``, ``report.raise_on("error")``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: no batch; a code that is not known, or none that can run; a model on the
            ``meta`` device; a loss that raises or is no scalar; a batch that the model does not
            accept; with batches, a lazy layer that has seen none.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU())
        >>> print(examine(model))  # doctest: +ELLIPSIS
        Sequential: healthy (1 norm, ... rules)
    """
    exported = None if isinstance(model, nn.Module) else _program(model)
    _check(loss, optimizer, forward)
    network: nn.Module = model
    if exported is not None:
        network = exported.graph_module if batches is None else exported.module()
    subject = Subject(network, optimizer, loss, exported)
    rules = _rules(select, ignore, batches is not None)
    _refuse_meta(network)
    if batches is not None:
        _refuse_lazy(network)
    foreign = batches is not None or any(not rule.module.startswith("gammabeta.") for rule in rules)
    with untouched(network, batches, copies=foreign), _uncompiled():
        found = _examined(subject, rules, batches, forward, progress)
    notes = [f"rules of {name} could not be loaded: {why}" for name, why in RULES.failed.items()]
    if exported is None and optimizer is not None and _is_of_another(optimizer, network):
        notes.append("optimizer holds no parameter of this model; give the one that trains it")
    open_, meant = apart(found.findings, network)
    return Report(
        findings=merged(open_),
        notes=[*notes, *_joined(subject.notes)],
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
        evidence = _evidence(subject, batches, forward, partial(_advance, bar))
        subject.evidence = evidence
        if not evidence.batches:
            raise ValueError("batches is empty; give at least one batch, or None")
        _first_pass(evidence, any(rule.code == "GB117" for rule in rules), forward is not None)
        if subject.refusing is not None:
            subject.evidence = None
            rules = [rule for rule in rules if rule.kind != "batches"]
        # what a model alone shows comes first: it may explain what happens on batches
        for rule in sorted(rules, key=lambda rule: rule.kind == "batches"):
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
            subject.findings.append(found[-1])
    except SpentError:
        subject.notes.append(f"{rule.code} ({rule.name}) not run: no forward pass was left")
    except Exception as error:
        subject.notes.append(f"{rule.code} ({rule.name}) failed: {_line(error)}")
    return found


_FAILED = re.compile(r"(\w+ \([\w-]+\)) ((?:failed: |not run: ).*)", re.S)


def _joined(notes: Iterable[str]) -> list[str]:
    """Return ``notes`` with those of several rules that failed for the same reason made one."""
    found: dict[str, list[str]] = {}
    for note in dict.fromkeys(notes):
        parts = _FAILED.fullmatch(note)
        reason, rule = (parts[2], parts[1]) if parts else (note, "")
        found.setdefault(reason, []).append(rule)
    return [f"{', '.join(rules)} {reason}".strip() for reason, rules in found.items()]


def _evidence(
    subject: Subject,
    batches: Iterable[Any],
    forward: Callable[[Any], Any] | None,
    done: Callable[[], None],
) -> Evidence:
    """Take the first batches.

    Raises:
        TypeError: they are no iterable.
        ValueError: the iteration raises.
    """
    if not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__"):
        raise TypeError(
            f"batches is of type {type(batches).__name__}; give an iterable of batches, such as a "
            "DataLoader"
        )
    if isinstance(batches, torch.Tensor):
        raise TypeError(
            f"batches is one tensor, of shape {tuple(batches.shape)}; give a list of batches: "
            "[batches]"
        )
    try:
        return Evidence(subject, batches, forward, done)
    except Exception as error:
        raise ValueError(
            f"batches raised {_line(error)}; check that the data loader works by itself"
        ) from error


def _first_pass(evidence: Evidence, tells: bool, given: bool) -> None:
    """Run the first batches in evaluation, so that bad input is an error and not many notes.

    Args:
        evidence: the passes.
        tells: whether a rule reports a norm that refuses its input.
        given: whether the person gave ``forward``.
    """
    for index in range(len(evidence.batches)):
        x = evidence.input(index)
        if x is not None and not x.numel():
            raise ValueError(
                f"batches: batch {index} (counted from 0) is empty, of shape {tuple(x.shape)}; "
                "omit empty batches"
            )
    try:
        _ = evidence.evaluated
    except LossError:
        raise
    except Exception as error:
        norm = refusing_norm(evidence.subject, error) if tells else None
        if norm is None:
            raise _refused(evidence, error, given) from error
        evidence.subject.refusing = norm
        evidence.subject.notes.append(f"rules on batches not run: {_line(error)}")


def _refused(evidence: Evidence, error: Exception, given: bool) -> ValueError:
    index = max(0, min(evidence.spent, len(evidence.batches)) - 1)
    shape = getattr(evidence.input(index), "shape", None)
    about = f"of shape {tuple(shape)}" if shape is not None else "without a tensor"
    which = f"batch {index} (counted from 0)" if index else "the first batch"
    if given:
        return ValueError(
            f"forward raised on {which} ({about}): {_line(error)}; it is called as forward(batch), "
            "runs the model and returns its output"
        )
    return ValueError(
        f"batches: the model does not accept {which} ({about}): {_line(error)}; give batches that "
        "the model can be called with, or forward=, a function that runs the model on a batch"
    )


def _line(error: BaseException) -> str:
    said = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Have models from `torch.compile` run as they are written, so that passes can be observed."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled; importing it takes a second
        yield
        return
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", "Using `torch.compile")  # global hooks, which run once
        yield


def _is_of_another(optimizer: torch.optim.Optimizer, model: nn.Module) -> bool:
    """Whether ``optimizer`` trains parameters, and none of ``model``."""
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    own = {id(p) for p in model.parameters()}
    return bool(held and own) and held.isdisjoint(own)


def _program(model: Any) -> Any:
    if isinstance(model, torch.export.ExportedProgram):
        return model
    raise TypeError(
        f"model is of type {type(model).__name__}; give a torch.nn.Module or an ExportedProgram"
    )


def _check(loss: Any, optimizer: Any, forward: Any) -> None:
    for name, value, what in (
        ("loss", loss, "a function of output and target"),
        ("forward", forward, "a function that is called with each batch"),
    ):
        if value is not None and not callable(value):
            raise TypeError(f"{name} is of type {type(value).__name__}; give {what}, or None")
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(
            f"optimizer is of type {type(optimizer).__name__}; give a torch optimizer or None"
        )


def _refuse_meta(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.device.type == "meta":
            raise ValueError(
                f"model: {name!r} is on the meta device and has no values; load a checkpoint with "
                "load_state_dict(state, assign=True), or make the model on a device"
            )


def _refuse_lazy(model: nn.Module) -> None:
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_lazy(tensor):
            raise ValueError(
                f"model: {name!r} is a lazy parameter without a shape; run the model once, on one "
                "batch, before it is examined on batches"
            )


def _rules(select: Any, ignore: Any, batches: bool) -> list[Rule]:
    """Return the rules to run.

    Raises:
        ValueError: ``select`` and ``ignore`` leave none.
    """
    chosen = RULES.chosen(select, ignore)
    rules = [r for r in chosen if r.kind != "training" and (batches or r.kind != "batches")]
    if rules:
        return rules
    both = {"select": select, "ignore": ignore}
    asked = " without ".join(f"{name}={its!r}" for name, its in both.items() if its is not None)
    if any(r.kind == "batches" for r in chosen):
        raise ValueError(f"{asked} leaves only rules that need batches; give batches")
    if chosen:
        raise ValueError(
            f"{asked} leaves only rules about trainings; run them with gammabeta.watch(doctor=True)"
        )
    raise ValueError(f"{asked} leaves no rule; choose others")


def _advance(bar: Generator[int, None, None]) -> None:
    next(bar, None)
