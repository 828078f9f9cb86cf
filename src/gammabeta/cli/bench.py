"""``gammabeta bench``: measure the layers beside torch's and others', and what a watch costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
import typer
from rich.console import Console

from gammabeta.cli import bench_doctor
from gammabeta.cli.bench_options import (
    AllOptions,
    ErrorOptions,
    MemoryOptions,
    NetOptions,
    NormOptions,
    StepOptions,
    WatchOptions,
    ZooOptions,
)
from gammabeta.cli.case_bar import Turns
from gammabeta.cli.options import command
from gammabeta.cli.terminal import say
from gammabeta.lab.bench import error as error_bench
from gammabeta.lab.bench import (
    error_report,
    net_profile,
    net_report,
    norm_report,
    roofline,
    step_report,
    watch_report,
    zoo,
    zoo_models,
    zoo_report,
)
from gammabeta.lab.bench import net as net_bench
from gammabeta.lab.bench import norm as norm_bench
from gammabeta.lab.bench import step as step_bench
from gammabeta.lab.bench import watch as watch_bench
from gammabeta.lab.bench.allocator import ALLOCATORS, set_allocator
from gammabeta.lab.bench.inputs import FORMATS
from gammabeta.lab.bench.net_models import SMALL
from gammabeta.lab.bench.results import Row, Setting, Table, here
from gammabeta.lab.bench.shapes import check_size
from gammabeta.lab.bench.verdict import verdicts_table
from gammabeta.names import known

app = typer.Typer(
    name="bench",
    help="Benchmark the layers against PyTorch and other libraries.",
    no_args_is_help=False,
    add_completion=False,
)

_PICTURE = "roofline.svg"
_ZOO = "zoo.csv"
_FILES = (
    *("norm.csv", "step.csv", "memory.csv", "error.csv", "watch.csv", "net.csv"),
    *(_ZOO, bench_doctor.FILE, _PICTURE),
)
_QUICK_ROUNDS = 3


def names(text: str) -> list[str]:
    """Return the names in ``text``, which commas part."""
    return [name.strip() for name in text.split(",") if name.strip()]


@command(app)
def norm(options: NormOptions) -> None:
    """Time batch norm in training, forward and backward, on the shapes of real networks."""
    plan = norm_bench.Plan(
        _shapes(options), names(options.formats), names(options.ops), names(options.rivals)
    )
    console, setting, table = _prepare(
        options.out / "norm.csv", options.threads, options.allocator, options.seconds
    )
    cases = norm_bench.measure(
        plan, setting, seconds=options.seconds, rounds=_rounds(options.quick)
    )
    complete = _collect(console, "norm", cases, len(plan.cases), table, norm_report.line)
    if any((row.what, row.who) in roofline.SERIES for row in table.rows):
        (options.out / _PICTURE).write_text(roofline.draw(table.rows), encoding="utf-8")
    _by_format(console, table, norm_report.shapes_table)
    if sizes := norm_report.sizes_table(table.rows):
        console.print(f"\n{sizes}", markup=False)
    _conclude(console, table, verdicts_table(norm_report.verdicts(table.rows)), complete)


@command(app)
def step(options: StepOptions) -> None:
    """Time a training step of a network: without norms, with torch's norms, with gammabeta's."""
    dtypes, forms, training = _training(options)
    console, setting, table = _prepare(
        options.out / "step.csv", options.threads, options.allocator, options.seconds
    )
    cases = step_bench.measure_time(
        training, dtypes, forms, setting, seconds=options.seconds, rounds=_rounds(options.quick)
    )
    complete = _collect(console, "step", cases, len(dtypes), table, step_report.line)
    _conclude_forms(console, training, table, complete)


@command(app)
def memory(options: MemoryOptions) -> None:
    """Measure the peak activation memory of a training step."""
    dtypes, forms, training = _training(options)
    console, setting, table = _prepare(options.out / "memory.csv", options.threads, "default")
    cases = step_bench.measure_memory(training, dtypes, forms, setting)
    complete = _collect(console, "memory", cases, len(dtypes), table, step_report.line)
    _conclude_forms(console, training, table, complete)


@command(app)
def error(options: ErrorOptions) -> None:
    """Measure the error against float64, and whether results depend on the number of threads."""
    plan = norm_bench.Plan(_shapes(options), names(options.formats))
    console, setting, table = _prepare(options.out / "error.csv", options.threads, "reuse")
    cases = error_bench.measure(plan, setting)
    complete = _collect(console, "error", cases, len(plan.cases), table, error_report.line)
    _by_format(console, table, error_report.shapes_table)
    _conclude(console, table, verdicts_table(error_report.verdicts(table.rows)), complete)


@command(app)
def watch(options: WatchOptions) -> None:
    """Measure what gammabeta.watch costs: of a step, of a run, of memory and of disk."""
    plan = (
        watch_bench.QUICK
        if options.quick
        else watch_bench.Plan(
            *(names(options.models), options.batch, options.size),
            *(options.rounds, options.steps, options.soak, options.record),
        )
    )
    check_size("batch", plan.batch, float(plan.batch * 64 * plan.size**2))
    console, setting, table = _prepare(options.out / "watch.csv", options.threads, "default")
    cases = watch_bench.measure(plan, setting)
    complete = _collect(console, "watch", cases, plan.cases, table, watch_report.line)
    if any(row.what == "step" for row in table.rows):
        console.print(f"\n{watch_report.networks_table(table.rows)}", markup=False)
    _conclude(console, table, verdicts_table(watch_report.verdicts(table.rows)), complete)


@command(app)
def net(options: NetOptions) -> None:
    """Time whole networks: with torch's norms, converted, compiled, and without norms."""
    names_asked = options.networks or list(net_bench.NAMES)
    batch, size = options.batch, options.size
    if options.quick:
        names_asked, batch, size = options.networks or [SMALL], 2, 32
    plan = net_bench.Plan(
        *(names_asked, names(options.layout), names(options.dtype), names(options.mode)),
        *(names(options.variants), batch, size),
    )
    check_size("batch", plan.batch, float(plan.batch * 64 * plan.size**2))
    console, setting, table = _prepare(
        options.out / "net.csv", options.threads, options.allocator, options.seconds
    )
    cases = net_bench.measure(
        *(plan, setting),
        seconds=options.seconds,
        rounds=_rounds(options.quick),
        profile=options.profile,
    )
    complete = _collect(console, "net", cases, plan.total, table, net_report.line)
    if net_report.by_case(table.rows):
        console.print(f"\n{net_report.networks_table(table.rows)}", markup=False)
    if kinds := net_profile.kinds_table(table.rows):
        console.print(f"\n{kinds}", markup=False)
    _conclude(console, table, verdicts_table(net_report.verdicts(table.rows)), complete)


@command(app, "zoo")
def compare_zoo(options: ZooOptions) -> None:
    """Compare other people's networks with themselves converted, folded and reverted."""
    networks = options.networks or zoo_models.names()
    for name in networks:
        zoo_models.check(name)
    for argument, value, most in (("jobs", options.jobs, 64), ("limit", options.limit, 10_000)):
        if not 1 <= value <= most:
            raise ValueError(f"{argument}={value} must be between 1 and {most}")
    _table(options.out / _ZOO)  # the folder will do
    results = zoo.Zoo(options.out / _ZOO)
    missing = results.missing(networks)[: options.limit]
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    if len(missing) < len(networks):
        known_already = len(networks) - len(results.missing(networks))
        console.print(f"{known_already} of {len(networks)} networks are in {_ZOO} already")
    complete = True
    try:
        with Turns(console, "zoo", len(missing)) as turns:
            for result in zoo.measure(missing, options.jobs):
                results.add(result)
                turns.done(zoo_report.line(result))
    except KeyboardInterrupt:
        complete = False
    if results.results:
        console.print(f"\n{zoo_report.counts_table(results.results)}", markup=False)
        console.print(f"\n{zoo_report.ratios_table(results.results)}\n", markup=False)
        for each in zoo_report.differing(results.results):
            console.print(each, markup=False)
        say(console, f"results  {results.path}")
    if not complete:
        console.print("interrupted; the same command continues")
        raise typer.Exit(130)


command(app, "doctor")(bench_doctor.score)


@command(app, "all")
def all_of_them(options: AllOptions) -> None:
    """Run norm, step, memory and error, one after the other."""
    norm(NormOptions(**options.given(NormOptions)))
    step(StepOptions(**options.given(StepOptions)))
    memory(MemoryOptions(**options.given(MemoryOptions)))
    error(ErrorOptions(**options.given(ErrorOptions)))


def _shapes(options: NormOptions | ErrorOptions) -> list[str]:
    return ["quick"] if options.quick else names(options.shapes)


def _rounds(quick: bool) -> int | None:
    return _QUICK_ROUNDS if quick else None


def _training(
    options: StepOptions | MemoryOptions,
) -> tuple[list[str], list[str], step_bench.Training]:
    """Return dtypes, forms and the network, unless its images alone would not fit into memory."""
    dtypes = [known("dtype", d, step_bench.DTYPES) for d in dict.fromkeys(names(options.dtype))]
    forms = step_bench.forms(names(options.variants))
    batch, size = (8, 16) if options.quick else (options.batch, options.size)
    if 0 < batch <= 4096 and 0 < size <= 4096:  # what is out of range is refused below
        channels = 64 if options.model is None else 3  # of the largest tensors
        check_size("batch", batch, float(batch * channels * size**2))
    return dtypes, forms, step_bench.Training.of(options.model, batch, size)


def _conclude_forms(
    console: Console, training: step_bench.Training, table: Table, complete: bool
) -> None:
    if table.rows:
        console.print(f"\n{training.name}, input {training.shape.replace('x', '×')}", markup=False)
        console.print(step_report.forms_table(table.rows), markup=False)
    _conclude(console, table, verdicts_table(step_report.verdicts(table.rows)), complete)


def _by_format(
    console: Console, table: Table, lay_out: Callable[[Sequence[Row], str], str]
) -> None:
    """Print one table a format."""
    for name in FORMATS:
        if any(row.format == name for row in table.rows):
            console.print(f"\n{norm_report.LAYOUTS[name]}", markup=False)
            console.print(lay_out(table.rows, name), markup=False)


def _table(file: Path) -> Table:
    """Return the table at ``file``; its folder must do for all that a benchmark writes."""
    for name in _FILES:
        taken = file.with_name(name)
        if taken.exists() and not taken.is_file():
            raise ValueError(f"{taken} is not a regular file; move it away or choose another --out")
    try:
        return Table(file)
    except OSError as e:
        raise ValueError(f"out={file.parent} cannot be used: {e.strerror or e}") from e


def _prepare(
    file: Path, threads: int, allocator: str, seconds: float = 0.0
) -> tuple[Console, Setting, Table]:
    """Set up the process as asked, and say how; complaints come before anything is printed."""
    if not 1 <= threads <= 1024:
        raise ValueError(f"threads={threads} must be between 1 and 1024")
    if not 0 <= seconds <= 3600:
        raise ValueError(f"seconds={seconds} must be between 0 and 3600")
    known("allocator", allocator, ALLOCATORS)
    table = _table(file)
    effective = set_allocator(allocator)
    torch.set_num_threads(threads)
    setting = here(effective)
    console = Console(highlight=False, soft_wrap=True, emoji=False)
    console.print(str(setting), markup=False)
    return console, setting, table


def _collect(
    console: Console,
    title: str,
    cases: Iterator[list[Row]],
    total: int,
    table: Table,
    line: Callable[[list[Row]], str],
) -> bool:
    """Measure all ``cases`` into ``table``; False if Ctrl-C came before the last."""
    try:
        with Turns(console, title, total) as turns:
            for rows in cases:
                table.add(rows)
                turns.done(line(rows))
    except KeyboardInterrupt:
        return False
    return True


def _conclude(console: Console, table: Table, summary: str, complete: bool) -> None:
    """Print what it comes to and where it is."""
    if table.rows:
        for absence in norm_report.absences(table.rows):
            console.print(f"absent: {absence}", markup=False)
        console.print(f"\n{summary}\n", markup=False)
        say(console, f"results  {table.path}")
    if not complete:
        kept = "the finished measurements are kept" if table.rows else "nothing was measured yet"
        console.print(f"interrupted; {kept}")
        raise typer.Exit(130)
