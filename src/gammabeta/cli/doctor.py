"""``gammabeta doctor``: normalization bugs of a model, with evidence and the fix."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from gammabeta.cli import state_file
from gammabeta.cli.named import batches_of, loss_of, model_of, place_of
from gammabeta.cli.options import Option, Options
from gammabeta.cli.terminal import printable
from gammabeta.doctor.examine import examine
from gammabeta.doctor.printed import page_text, wrapped
from gammabeta.doctor.report import Report
from gammabeta.doctor.rule import RULES

_WIDTH = 80
_KINDS = {
    "static": "On the model alone",
    "batches": "On batches",
    "training": "While a model trains (gammabeta.watch)",
    "graph": "On exported, traced and quantized graphs",
}


@dataclass
class DoctorOptions(Options):
    """What ``gammabeta doctor`` is asked for."""

    factory: Annotated[
        str | None,
        Option(
            "Function, class or model to examine, as package.module:name; a function is called "
            "without arguments.",
            metavar="MODULE:NAME",
            positional=True,
        ),
    ] = None
    checkpoint: Annotated[
        Path | None,
        Option("State dict to load first: torch.save (weights_only) or safetensors."),
    ] = None
    batches: Annotated[
        str | None,
        Option(
            "Iterable of batches, or function that returns one.",
            metavar="MODULE:NAME",
        ),
    ] = None
    loss: Annotated[
        str | None,
        Option("Function of output and target that returns a scalar.", metavar="MODULE:NAME"),
    ] = None
    select: Annotated[
        str | None,
        Option("Run only these rules: GB1,GB203,….", metavar="CODES"),
    ] = None
    ignore: Annotated[str | None, Option("Do not run these rules.", metavar="CODES")] = None
    json: Annotated[bool, Option("Print the report as JSON.")] = False
    sarif: Annotated[bool, Option("Print the report as SARIF 2.1.0.")] = False
    fix: Annotated[bool, Option("Apply the safe fixes, show them, and report what remains.")] = (
        False
    )
    out: Annotated[
        Path | None,
        Option("New file for the fixed state dict; needs --fix.", metavar="FILE"),
    ] = None
    explain: Annotated[str | None, Option("Explain a rule and exit.", metavar="CODE")] = None
    list: Annotated[bool, Option("List the rules and exit.")] = False


def doctor(options: DoctorOptions) -> None:
    """Find normalization bugs in a model, with evidence and the fix.

    Exit code 0: no finding of severity error; 1: there is one; 2: bad input.
    """
    if options.list:
        _list_rules()
        return
    if options.explain is not None:
        rule = RULES[options.explain]
        print(f"{rule.code} {rule.name}\n\n{page_text(rule.page)}")
        return
    _check(options)
    model = model_of(options.factory or "")
    if options.fix and not isinstance(model, nn.Module):
        raise ValueError("fix: an exported graph cannot be changed; fix the model and export it")
    loaded = None
    if options.checkpoint is not None:
        if not isinstance(model, nn.Module):
            raise ValueError("checkpoint: an ExportedProgram holds its weights; omit --checkpoint")
        loaded = state_file.load_into(model, state_file.read(options.checkpoint))
        if loaded.left_out:
            print(
                f"gammabeta: checkpoint='{options.checkpoint}' does not hold running statistics, "
                f"such as {loaded.left_out[0]!r}; the model keeps its own",
                file=sys.stderr,
            )
    batches = None if options.batches is None else batches_of(options.batches)
    arguments: dict[str, Any] = {
        "loss": None if options.loss is None else loss_of(options.loss),
        "select": _codes(options.select),
        "ignore": _codes(options.ignore),
    }

    def examined() -> Report:
        with contextlib.redirect_stdout(sys.stderr):
            return examine(model, batches() if batches else None, **arguments)

    report = examined()
    if options.fix:
        changes = report.fix(model)
        failed = report.notes
        if changes:
            report = examined()
            report.fixed = changes
            report.notes = list(dict.fromkeys([*failed, *report.notes]))
        if options.out is not None:
            state_file.write(options.out, model, loaded)
    _show(options, report)
    raise typer.Exit(1 if report.at_least("error") else 0)


def _check(options: DoctorOptions) -> None:
    """Refuse what cannot be meant, before anything of the user's is imported."""
    if not options.factory:
        raise ValueError("factory is missing; give package.module:name, such as train:make_model")
    if options.json and options.sarif:
        raise ValueError("json and sarif exclude each other; give one of --json and --sarif")
    if options.loss is not None and options.batches is None:
        raise ValueError("loss needs batches; give --batches, too")
    RULES.chosen(_codes(options.select), _codes(options.ignore))
    out = options.out
    if out is None:
        return
    if not options.fix:
        raise ValueError(f"out='{out}' needs --fix, whose result it holds")
    if out.exists():
        raise ValueError(f"out='{out}' exists; give the path of a new file")


def _codes(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",")]


def _show(options: DoctorOptions, report: Report) -> None:
    if options.json:
        print(report.to_json())
        return
    if options.sarif:
        log = report.to_sarif(*place_of(options.factory or ""))
        print(json.dumps(log, indent=2, ensure_ascii=False))
        return
    if options.fix:
        _show_changes(options, report)
    print(report)


def _show_changes(options: DoctorOptions, report: Report) -> None:
    if not report.fixed:
        print("Nothing to fix." if report.healthy else "Nothing was fixed: no safe fix is known.")
    else:
        print(f"Fixed {len(report.fixed)}:")
    for change in report.fixed:
        setting = "" if change.stored else "  (a setting: change it in the code, too)"
        lines = textwrap.wrap(printable(f"{change}{setting}"), _WIDTH - 2)
        print("\n".join(f"  {line}" for line in lines))
    if options.out is not None:
        print(f"Wrote {printable(options.out)}.")
        if not any(change.stored for change in report.fixed):
            print("Its tensors are as before: a state dict holds no settings.")
    print()


def _list_rules() -> None:
    kind = ""
    for rule in RULES:
        if rule.kind != kind:
            print(f"{chr(10) if kind else ''}{_KINDS[rule.kind]}:")
            kind = rule.kind
        print("\n".join(wrapped(f"{rule.code} {rule.name}: {rule.title}", "  ", "        ")))
