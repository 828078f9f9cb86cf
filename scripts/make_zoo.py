"""Put the zoo's results where people read them: python scripts/make_zoo.py

Reads benchmarks/results/zoo.csv, which `gammabeta bench zoo --out benchmarks/results` writes, and
writes the block between the two markers of docs/zoo.md. A test compares both
(tests/lab/bench/test_zoo_page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from gammabeta.lab.bench import zoo_report
from gammabeta.lab.bench.zoo import read
from gammabeta.lab.bench.zoo_case import Result

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/zoo.csv"
PAGE = ROOT / "docs/zoo.md"
BEGIN = "<!-- made by scripts/make_zoo.py from benchmarks/results/zoo.csv -->\n"
END = "<!-- end of what scripts/make_zoo.py made -->\n"


def block(results: Sequence[Result]) -> str:
    """The results as Markdown."""
    layers = sum(result.norms for result in results)
    changed = sum(result.converted for result in results)
    fused = sum(result.fused for result in results)
    folded = sum(max(0, result.folded) for result in results)
    parts = [
        f"{len(results)} networks with {layers:,} normalization layers: {changed:,} converted, "
        f"{fused:,} of them fused with what follows, {folded:,} folded.",
        _code(zoo_report.counts_table(results)),
        "Our distance from float64 over torch's, where torch's is above 10⁻⁶:",
        _code(zoo_report.ratios_table(results)),
    ]
    if differing := zoo_report.differing(results):
        parts += ["What differs:", "\n".join(f"- {_escaped(each)}" for each in differing)]
    for status, title in (("no norms", "Nothing to convert"), ("left out", "Left out")):
        if found := zoo_report.reasons(results, status):
            lines = [
                f"| {number} | {_escaped(reason)} | {example} |"
                for reason, number, example in found
            ]
            parts.append(
                "\n".join([f"{title}:", "", "| networks | because | such as |", "|---|---|---|"])
                + "\n"
                + "\n".join(lines)
            )
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("_", "\\_").replace("*", "\\*")


def inserted(page: str, made: str) -> str:
    """``page`` with ``made`` between the markers."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"docs/zoo.md has no lines\n{BEGIN}{END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(inserted(PAGE.read_text("utf-8"), block(read(RESULTS))), encoding="utf-8")
