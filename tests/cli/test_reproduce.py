"""``gammabeta reproduce``: what it lists, refuses, prints, leaves, and goes on with."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from gammabeta import cli
from gammabeta.cli.claim_bars import Bars
from gammabeta.cli.jobs import _next, side_by_side
from gammabeta.lab.claims.framework import registry, results
from gammabeta.lab.claims.framework.claim import DOES_NOT_HOLD, HOLDS, Claim, Number, Outcome
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.figure import COOL, sheet
from tests.cli.command import Shell, start

COMPUTED: list[str] = []


def counting(context: Context) -> Outcome:
    """Four results, one of which may stop the run."""
    context.plan(4)
    values = []
    for seed in range(4):

        def compute(seed: int = seed) -> dict[str, int]:
            if seed == 2 and "stop" in COMPUTED:
                COMPUTED.remove("stop")
                raise KeyboardInterrupt
            COMPUTED.append(f"seed {seed}")
            return {"value": seed}

        values.append(context.run({"arm": "counted", "seed": seed}, compute)["value"])
    figure = context.figure("line")
    with sheet(figure, "A line that rises.") as drawn:
        drawn.panels[0].plot([0, 1], [0, 1], color=COOL)
    verdict = HOLDS if sum(values) == 6 else DOES_NOT_HOLD
    return Outcome([Number.over("counted", values)], verdict, "They add up.", [figure])


def toy(name: str, run: Callable[[Context], Outcome] = counting) -> Claim:
    return Claim(
        name, f"To {name}", "Numbers add up.", "Euclid", "Count to four.", "It holds if so.",
        "1, 2, 3", 0.5, 1, run,
    )  # fmt: skip


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Any]]:
    """Run the command in this process, where there are two claims of the tests' own."""
    mine = {name: toy(name) for name in ("count", "add")}
    # The module `gammabeta.cli.reproduce` is hidden by its function of the same name.
    for module in (registry, results, sys.modules["gammabeta.cli.reproduce"]):
        monkeypatch.setattr(module, "claims", lambda: mine)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    COMPUTED.clear()

    def run(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["gammabeta", "reproduce", "--data", "digits", *args])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code

    return run  # type: ignore[return-value]


def test_a_run_and_what_it_leaves(toys: Any, tmp_path: Path, capsys: Any) -> None:
    assert toys("count", "--quick") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "  1/1 count  4/4  arm counted · seed 3\n" in printed.out
    assert "1/1  count: holds (counted: 1 (0 … 3); " in printed.out
    assert "report   runs/claims-quick/report.html  (open it in a browser)\n" in printed.out
    folder = tmp_path / "runs/claims-quick"
    left = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert [name for name in left if not name.startswith("results/count/")] == [
        "figures/count-line.svg",
        "outcomes/count.json",
        "report.html",
        "report.md",
    ]
    assert [f"seed {seed}" for seed in range(4)] == COMPUTED


@pytest.mark.parametrize(("width", "paper"), [("80", False), ("120", True)])
def test_the_papers_numbers_are_on_a_wide_board(
    toys: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch, width: str, paper: bool
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    assert toys("count", "--quick") == 0
    board = capsys.readouterr().out.partition("claim ")[2].splitlines()
    assert board[0].split() == [*(["the", "paper"] if paper else []), "here", "verdict"]
    row = board[2].split("  ")
    assert [cell.strip() for cell in row if cell] == [
        *("count", *(["1, 2, 3"] if paper else [])),
        *("1 (0 … 3)", "holds"),
    ]


def test_it_goes_on_where_it_was_stopped(toys: Any, capsys: Any) -> None:
    COMPUTED.append("stop")
    assert toys("count", "--out", "here") == 130
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.endswith(
        "interrupted; the finished results are kept in here; run the same command again to "
        "continue\n"
    )
    assert not Path("here/report.html").exists()
    assert toys("count", "--out", "here") == 0
    assert [f"seed {seed}" for seed in range(4)] == COMPUTED  # none of them twice
    assert "2/4  arm counted · seed 1  (kept)\n" in capsys.readouterr().out


def test_the_report_holds_all_that_the_folder_has(toys: Any, capsys: Any) -> None:
    assert toys("add", "--out", "here") == 0
    assert toys("count", "--out", "here") == 0
    report = Path("here/report.html").read_text()
    assert report.index("To count") < report.index("To add")  # in the registry's order
    assert "2 claims put to the test: 2 hold." in report
    assert "To add" in Path("here/report.md").read_text()
    assert capsys.readouterr().out.count("add") < 12  # the table is of what was asked for
    assert toys("--all", "--jobs", "1", "--out", "there") == 0
    assert "2/2  add: holds" in capsys.readouterr().out


def test_side_by_side_they_come_to_what_they_come_to_in_turn(tmp_path: Path) -> None:
    """The one that shares the results of another waits for it, though it is named first."""
    chosen = [
        replace(registry.claim("two-parameters"), after=("ensemble",)),
        registry.claim("ensemble"),
        registry.claim("stable-distributions"),
    ]
    found = {}
    for jobs in (1, 2):
        context = Context(tmp_path / str(jobs), quick=True, data="digits", scale=0.01)
        with Bars(Console(file=StringIO(), width=100)) as bars:
            done = list(side_by_side(chosen, context, jobs, bars))
        names = [claim.name for claim, *_ in done]
        assert sorted(names) == ["ensemble", "stable-distributions", "two-parameters"]
        assert names.index("ensemble") < names.index("two-parameters")
        found[jobs] = {claim.name: list(map(str, outcome.numbers)) for claim, outcome, _ in done}
        assert len(results.kept(context.folder, quick=True)) == 3
    assert found[1] == found[2]


def test_what_a_process_raises_is_raised(tmp_path: Path) -> None:
    context = Context(tmp_path, data="mnist", data_dir=tmp_path / "nowhere")
    with (
        Bars(Console(file=StringIO())) as bars,
        pytest.raises(ValueError, match="nowhere"),
    ):
        list(side_by_side([registry.claim("ensemble")], context, 2, bars))


def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    context = Context(tmp_path, quick=True, data="digits")

    class Killer(Bars):
        def add(self, title: str) -> Any:
            (child,) = multiprocessing.active_children()
            child.kill()
            return super().add(title)

    with (
        Killer(Console(file=StringIO())) as bars,
        pytest.raises(
            ChildProcessError,
            match=r"ensemble ended unexpectedly \(SIGKILL, possibly out of memory\)",
        ),
    ):
        list(side_by_side([registry.claim("ensemble")], context, 2, bars))


def test_killed_it_leaves_nobody_behind(tmp_path: Path) -> None:
    """Workers see that the first process is gone; else they would go on, for hours."""
    args = ("noisy-bn", "train-eval-gap", "--data", "digits", "--jobs", "2")  # minutes of work
    with start("reproduce", *args, "--out", "run", folder=tmp_path) as command:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("run/results/*/*.json")) and time.monotonic() < deadline:
            time.sleep(0.02)
        children = Path(f"/proc/{command.pid}/task/{command.pid}/children").read_text().split()
        assert len(children) >= 2
        command.kill()
    deadline = time.monotonic() + 10
    while any(map(lives, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in children if lives(pid)] == []


def lives(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, but nobody has looked yet


def test_a_process_that_dies_is_told_while_others_are_busy() -> None:
    """An event every moment from another claim must not hide the silence of the dead one."""
    dead = SimpleNamespace(is_alive=lambda: False, exitcode=-9)
    alive = SimpleNamespace(is_alive=lambda: True)

    class Busy:
        def get(self, timeout: float) -> tuple[str, str, tuple[float]]:
            time.sleep(0.1)
            return "busy", "within", (0.5,)

    running, died = {"busy": (alive,), "lost": (dead,)}, dict[str, float]()
    began = time.monotonic()
    with pytest.raises(
        ChildProcessError, match=r"the process of lost ended unexpectedly \(SIGKILL"
    ):
        _ = [_next(Busy(), running, died) for _ in range(300)]
    assert time.monotonic() < began + 10


def test_without_matplotlib_it_says_so_at_once(
    toys: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert toys("count") == 2
    said = capsys.readouterr().err
    assert said == "gammabeta: figures need Matplotlib: pip install 'gammabeta[claims]'\n"
    assert COMPUTED == []


@pytest.mark.parametrize("kind", ["outcomes", "results", "figures"])
def test_a_fifo_among_the_results_is_refused(toys: Any, capsys: Any, kind: str) -> None:
    """Whoever reads or writes it would wait for ever."""
    assert toys("count", "--out", "here") == 0
    taken = next(path for path in Path("here", kind).rglob("*") if path.is_file())
    taken.unlink()
    os.mkfifo(taken)
    capsys.readouterr()
    assert toys("count", "--out", "here") == 2
    said = capsys.readouterr()
    assert said.err == f"gammabeta: {taken} is not a regular file; move it away\n"
    assert said.out == ""


def test_a_folder_that_cannot_be_written(toys: Any, capsys: Any) -> None:
    Path("taken").write_text("a file")
    assert toys("count", "--out", "taken") == 2
    said = capsys.readouterr().err
    assert said.startswith("gammabeta: ")
    assert said.count("\n") == 1
    assert Path("taken").read_text() == "a file"


def test_the_list(shell: Shell, tmp_path: Path) -> None:
    printed = shell("reproduce", "--list", folder=tmp_path).ok()
    assert max(map(len, printed.splitlines())) <= 80
    for name, claim in registry.claims().items():
        assert f"{name}  ({claim.minutes_full:g} min, " in printed
    words = " ".join(printed.split())
    for text in ("claim", "source", "protocol", "criterion"):
        assert f" {text} " in words
    one = shell("reproduce", "--list", "ensemble", folder=tmp_path).ok()
    assert one.startswith("ensemble  (")
    assert "fewer-steps" not in one
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["fewer-step"], "claim='fewer-step' is not known; did you mean 'fewer-steps'?"),
        ([], "no claim is given; name at least one, or give --all; --list shows the names"),
        (["ensemble", "--all"], "--all runs every claim; omit the names or omit --all"),
        (["ensemble", "--jobs", "0"], "jobs=0 must be at least 1"),
        (["ensemble", "--seeds", "2"], "seeds=2 must be an odd number from 3"),
        (["ensemble", "--seeds", "4"], "seeds=4 must be an odd number"),
        (["ensemble", "--seeds", "100000000001"], "must be an odd number from 3 to 999"),
        (["ensemble", "--seeds", "many"], "'many' is not a whole number"),
        (["ensemble", "--data", "digit"], "data='digit' is not known; did you mean 'digits'?"),
        (["ensemble", "--data", "mnist"], "data='mnist' needs the folder of its files: --data-dir"),
        (["ensemble", "--data", "mnist", "--data-dir", "no"], "the folder of MNIST's four IDX"),
        (
            ["ensemble", "--data", "digits", "--data-dir", "no"],
            "data_dir=no is not for the digits; name the data set it is of",
        ),
        (["ensemble", "--data-dir", "nowhere"], "nowhere has no train-images-idx3-ubyte.gz"),
    ],
)
def test_bad_input(shell: Shell, tmp_path: Path, args: list[str], complaint: str) -> None:
    assert complaint in shell("reproduce", *args, folder=tmp_path).refused()
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_a_file(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    refused = shell("reproduce", "ensemble", "--data", "digits", "--out", "taken", folder=tmp_path)
    assert refused.refused() == "out=taken cannot be used: File exists"


def test_the_list_tells_whose_runs_are_shared(shell: Shell, tmp_path: Path) -> None:
    told = shell("reproduce", "--list", "bolder-initialization", folder=tmp_path).ok()
    assert " cost      after higher-learning-rates, whose runs it shares" in told
    grid = registry.claim("higher-learning-rates").minutes_full
    assert told.endswith("with --quick; each core takes one claim\n")
    (last,) = [line for line in told.splitlines() if line.startswith("1 claim: ")]
    assert int(last.split()[2]) == round(grid + 0.1)  # alone, it has to make them


def test_a_real_claim_is_interrupted_and_keeps_what_it_did(shell: Shell, tmp_path: Path) -> None:
    args = ("reproduce", "two-parameters", "--quick", "--data", "digits")
    done = shell(*args, folder=tmp_path, interrupt=3)
    assert (done.code, done.err) == (130, "")
    assert "1/9  part identity · seed 0\n" in done.out
    kept = list((tmp_path / "runs/claims-quick/results/two-parameters").glob("*.json"))
    assert len(kept) == done.out.count(" · seed ") >= 3
