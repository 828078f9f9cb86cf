"""Put the doctor's results where people read them: python scripts/make_doctor.py

Reads benchmarks/results/doctor.csv, which `gammabeta bench doctor --out benchmarks/results` writes,
and writes the blocks between the two markers of docs/doctor-bench.md and of README.md. A test
compares them (tests/lab/bench/test_doctor_page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gammabeta.lab.bench import doctor_report
from gammabeta.lab.bench.doctor_case import FAULT, HEALTHY, NETWORK, Case
from gammabeta.lab.bench.doctor_table import read
from gammabeta.lab.bench.doctor_tools import OURS
from gammabeta.lab.bench.verdict import verdicts_table

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/doctor.csv"
PAGE = ROOT / "docs/doctor-bench.md"
README = ROOT / "README.md"
BEGIN = "<!-- made by scripts/make_doctor.py from benchmarks/results/doctor.csv -->\n"
END = "<!-- end of what scripts/make_doctor.py made -->\n"


def block(cases: Sequence[Case]) -> str:
    """The results as Markdown."""
    own = [case for case in cases if case.tool == OURS]
    counts = {kind: sum(c.kind == kind for c in own) for kind in (FAULT, HEALTHY, NETWORK)}
    parts = [
        f"{counts[FAULT]} faults with their healthy twins, {counts[HEALTHY]} healthy nets that are "
        f"trained, {counts[NETWORK]} networks of pytorchcv and transformers.",
        _code(doctor_report.tools_table(cases)),
        "By rule (found, layer, fix, extra and false alarms are the doctor's; the last two columns "
        "count the faults that the other tools found):",
        _code(doctor_report.rules_table(cases)),
        "The doctor against its goals:",
        _code(verdicts_table(doctor_report.verdicts(cases))),
    ]
    if real := doctor_report.real(cases):
        parts.append(f"Real faults, not counted as alarms: {_escaped(', '.join(real))}.")
    if wrong := doctor_report.wrong(cases):
        parts += ["What the doctor gets wrong:", "\n".join(f"- {_escaped(each)}" for each in wrong)]
    versions = sorted({case.made.rpartition(", ")[2] for case in cases if case.tool != OURS})
    parts.append(f"Other tools: {', '.join(versions)}." if versions else "")
    return "\n\n".join(filter(None, parts)) + "\n"


def brief(cases: Sequence[Case]) -> str:
    """The results in a few lines of Markdown."""
    networks = [case for case in cases if case.kind == NETWORK and case.tool == OURS]
    alarmed, real = sum(case.alarms > 0 for case in networks), doctor_report.real(cases)
    return (
        "`gammabeta bench doctor` scores it on a [public set of faults](docs/doctor-bench.md) with "
        "healthy twins, and runs two other tools, which look for other things too, on the same "
        f"scripts:\n\n{_code(doctor_report.tools_table(cases))}\n\n"
        f"It has false alarms on {alarmed} of {len(networks)} networks of pytorchcv and "
        f"transformers as they are built, and finds a real fault in {len(real)}.\n"
    )


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


def inserted(page: str, made: str) -> str:
    """``page`` with ``made`` between the markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"the page has no lines\n{BEGIN}{END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


MADE = {PAGE: block, README: brief}
"""File → what makes its block."""

if __name__ == "__main__":
    for path, make in MADE.items():
        path.write_text(inserted(path.read_text("utf-8"), make(read(RESULTS))), encoding="utf-8")
