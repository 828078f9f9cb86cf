"""``gammabeta bench doctor``: score the doctor, and two other tools beside it."""

from __future__ import annotations

import torch
import typer
from rich.console import Console

from gammabeta.cli.bench_options import DoctorOptions
from gammabeta.cli.case_bar import Turns
from gammabeta.cli.terminal import say
from gammabeta.lab.bench import doctor_report
from gammabeta.lab.bench.doctor import Plan, measure
from gammabeta.lab.bench.doctor_table import Cases
from gammabeta.lab.bench.verdict import verdicts_table

FILE = "doctor.csv"


def score(options: DoctorOptions) -> None:
    """Score the doctor and two other tools on faults, healthy twins and healthy networks."""
    tools = [name.strip() for name in options.tools.split(",") if name.strip()]
    if not 1 <= options.threads <= 1024:
        raise ValueError(f"threads={options.threads} must be between 1 and 1024")
    plan = Plan(options.scripts, options.names, tools)
    cases = plan.cases()
    try:
        table = Cases(options.out / FILE)
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ValueError(f"out={options.out} cannot be used: {e.strerror or e}") from e
    if plan.complete:
        table.keep(cases)
    torch.set_num_threads(options.threads)
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    complete = True
    try:
        with Turns(console, "doctor", len(cases)) as turns:
            for case in measure(cases):
                table.add(case)
                turns.done(doctor_report.line(case))
    except KeyboardInterrupt:
        complete = False
    _print(console, table)
    if not complete:
        console.print("interrupted; the finished cases are kept")
        raise typer.Exit(130)


def _print(console: Console, table: Cases) -> None:
    """Print what the table comes to, and where it is."""
    cases = table.cases
    if cases:
        console.print(f"\n{doctor_report.rules_table(cases)}", markup=False)
        console.print(f"\n{doctor_report.tools_table(cases)}\n", markup=False)
        for each in doctor_report.wrong(cases):
            console.print(each, markup=False)
        console.print(f"\n{verdicts_table(doctor_report.verdicts(cases))}\n", markup=False)
        say(console, f"results  {table.path}")
