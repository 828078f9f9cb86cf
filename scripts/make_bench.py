"""Put the committed run's figures where people read them: python scripts/make_bench.py

Reads benchmarks/results/*.csv, which `gammabeta bench all --out benchmarks/results` writes, draws
benchmarks/results/roofline.svg, and writes the block between the two markers of README.md. The
tests compare both with what is committed (tests/lab/bench/test_figures.py).
"""

from __future__ import annotations

import math
from pathlib import Path

from gammabeta.lab.bench import error_report, net_report, norm_report, roofline, step_report
from gammabeta.lab.bench.inputs import FORMATS, OPS
from gammabeta.lab.bench.results import Row, read
from gammabeta.lab.bench.verdict import Verdict

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
README = ROOT / "README.md"
BEGIN = "<!-- made by scripts/make_bench.py from benchmarks/results -->\n"
NAMES = ("net", "norm", "step", "memory", "error")
END = "<!-- end of what scripts/make_bench.py made -->\n"


def block(results: Path = RESULTS) -> str:
    """The figures of the CSV files in ``results``, as Markdown; what is not there is left out."""
    found = {name: _rows(results / f"{name}.csv") for name in NAMES}
    parts = []
    if found["net"]:
        parts.append(_networks(found["net"]))
    if found["norm"]:
        panels = {name: roofline.curves(found["norm"], name) for name in FORMATS}
        described = roofline.describe({name: panel for name, panel in panels.items() if panel})
        parts += [_norms(found["norm"]), f"![{described}](benchmarks/results/roofline.svg)"]
    verdicts = [v for name in ("step", "memory") for v in step_report.verdicts(found[name])]
    measured = [v for v in verdicts if not math.isnan(v.value)]
    if measured:
        parts.append(_ratios("a network of 8 × (conv 3×3, BN, ReLU)", measured))
    if found["error"]:
        parts.append(_ratios("against float64", error_report.verdicts(found["error"])))
    settings = sorted({_setting(row) for rows in found.values() for row in rows})
    return "\n\n".join([*parts, *(f"Measured on {setting}." for setting in settings)]) + "\n"


def _rows(path: Path) -> list[Row]:
    return read(path) if path.exists() else []


def _networks(rows: list[Row]) -> str:
    """A row a network, layout, dtype and mode: what a pass takes, in units of others'."""
    lines = [
        "Whole networks that nobody here wrote, after `gb.convert(model)`: forward and backward "
        "pass in training, the forward pass in evaluation, as multiples of the time of the same "
        "network with torch's norms, and without norms. In brackets the middle 60 % of the rounds.",
        "",
        "| network | input | layout | | with torch's norms | without norms | torch's norms ÷ "
        "without |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, layout, dtype, mode), case in net_report.by_case(rows).items():
        shape = next(iter(case.values())).shape.replace("x", "×")
        cells = []
        for at in (("converted", "torch"), ("converted", "bare"), ("torch", "bare")):
            row = case.get(at)
            cells.append(f"{row.q50:.2f} ({row.q20:.2f}–{row.q80:.2f})" if row else "–")
        what = f"{mode}, {dtype}"
        lines.append(f"| {' | '.join([name.partition(':')[2], shape, layout, what, *cells])} |")
    lines.append("")
    lines += [
        f"| {v.of.strip()} | {v.measured.removesuffix(' ×')} | goal {v.goal:g} | {v.word} |"
        for v in net_report.verdicts(rows)
        if not v.of.startswith(" ") and not math.isnan(v.value)
    ]
    first = next(i for i, line in enumerate(lines) if line.startswith("| training"))
    lines[first:first] = ["| | measured | | |", "|---|---|---|---|"]
    return "\n".join(lines)


def _norms(rows: list[Row]) -> str:
    """A row a format: each operation, × torch eager, and BN+ReLU ÷ ReLU."""
    verdicts = {v.of: v for v in norm_report.verdicts(rows)}
    shapes = {row.shape for row in norm_report.of_networks(rows)}
    lines = [
        "Batch norm in training, forward and backward, in multiples of the speed of torch's "
        f"layers: geometric means over {len(shapes)} shapes of BN-Inception and ResNet-50, batch "
        "32. Last, how much longer BN+ReLU takes than a ReLU alone, ours and torch's.",
        "",
        "| | BN | BN+ReLU | BN+add+ReLU | BN+ReLU ÷ ReLU | torch's |",
        "|---|---|---|---|---|---|",
    ]
    best = []
    for name in FORMATS:
        label = norm_report.LAYOUTS[name]
        if any(of.startswith(label) for of in verdicts):
            cells = [
                _text(verdicts.get(f"{label}: {norm_report.NAMES[what]}, × torch eager"), " ×")
                for what in OPS
            ]
            over = verdicts.get(f"{label}: BN+ReLU ÷ ReLU")
            theirs = over.note.removeprefix("torch eager: ") if over else ""
            lines.append(f"| {' | '.join([label, *cells, _text(over), theirs or '–'])} |")
            prefix = f"{label}: BN+ReLU, × "
            best += [
                f"{label} {v.measured} ({of.removeprefix(prefix + 'best of ')})"
                for of, v in verdicts.items()
                if of.startswith(f"{prefix}best of ")
            ]
    sizes = norm_report.by_size(rows)
    if sizes:
        lines += [
            "",
            "Where the difference is, by the size of the tensor, BN+ReLU ÷ ReLU again:",
            "",
            f"| | {' | '.join(norm_report.SIZES)} |",
            f"|---|{'---|' * len(norm_report.SIZES)}",
        ]
        for name, of in sizes.items():
            cells = [f"{of[label]:.2f}" if label in of else "–" for label in norm_report.SIZES]
            lines.append(f"| {norm_report.LAYOUTS[name]} | {' | '.join(cells)} |")
    if best:
        lines += ["", f"BN+ReLU, by the best of its rivals on each shape: {'; '.join(best)}."]
    return "\n".join(lines)


def _ratios(of: str, verdicts: list[Verdict]) -> str:
    lines = [f"| {of} | | |", "|---|---|---|"]
    lines += [f"| {v.of} | {v.measured.removesuffix(' ×')} | {v.note} |" for v in verdicts]
    return "\n".join(lines)


def _text(verdict: Verdict | None, unit: str = "") -> str:
    return "–" if verdict is None or math.isnan(verdict.value) else f"{verdict.value:.2f}{unit}"


def _setting(row: Row) -> str:
    setting = row.setting
    return (
        f"{setting.cpu}, {setting.machine}, {setting.threads} threads, torch {setting.torch}, "
        f"{setting.date[:10]}"
    )


def inserted(readme: str, made: str, begin: str = BEGIN, end: str = END) -> str:
    """``readme`` with ``made`` between the markers."""
    before, _, rest = readme.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"README.md has no lines\n{begin}{end}")
    return f"{before}{begin}\n{made}\n{end}{after}"


if __name__ == "__main__":
    picture = roofline.draw(read(RESULTS / "norm.csv"))
    (RESULTS / "roofline.svg").write_text(picture, encoding="utf-8")
    README.write_text(inserted(README.read_text("utf-8"), block()), encoding="utf-8")
