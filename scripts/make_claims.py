"""Put a full run of the claims where people read it: python scripts/make_claims.py [FOLDER]

FOLDER is what `gammabeta reproduce --all` left; its outcomes and figures go to benchmarks/claims.
Without it, or after it, docs/claims.md and the score board in README.md are written from those. The
tests compare them (tests/lab/claims/test_committed.py).
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from make_bench import README, inserted

from gammabeta.lab.claims.framework.registry import claims
from gammabeta.lab.claims.framework.report import board, markdown, summary
from gammabeta.lab.claims.framework.results import Result, kept

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "benchmarks/claims"
PAGE = ROOT / "docs/claims.md"
BEGIN = "<!-- made by scripts/make_claims.py from benchmarks/claims -->\n"
END = "<!-- end of what scripts/make_claims.py made -->\n"
PICTURE = "higher-learning-rates-maps.svg"


def text(results: list[Result]) -> str:
    """The page docs/claims.md."""
    left = missing(results)
    return markdown(results, PAGE.parent) + (f"\n{left}\n" if left else "")


def missing(results: list[Result]) -> str:
    """A line that names the claims without a full run; empty if there are none."""
    names = set(claims()) - {result.claim.name for result in results}
    if not names:
        return ""
    return f"Not yet run in full: {', '.join(name for name in claims() if name in names)}."


def block(results: list[Result]) -> str:
    """The score board in README.md, and a picture of one claim."""
    shown = [f for result in results for f in result.outcome.figures if f.name == PICTURE]
    pictures = [
        "![Which learning rates and initial scales train, without and with batch norm."
        f"]({figure.relative_to(ROOT).as_posix()})\n\n"
        for figure in shown
    ]
    told = f"{summary(results)} {missing(results)}".strip()
    return f"{told}\n\n{board(results, 'docs/claims.md')}\n\n{''.join(pictures)}"


def take(folder: Path) -> None:
    """Copy the outcomes of ``folder``, and the figures they name."""
    found = kept(folder, quick=False)
    if not found:
        raise SystemExit(f"{folder} holds no outcome of a full run of today's claims")
    shutil.rmtree(COMMITTED, ignore_errors=True)
    for name in ("outcomes", "figures"):
        (COMMITTED / name).mkdir(parents=True)
    for result in found:
        name = f"{result.claim.name}.json"
        shutil.copy(folder / "outcomes" / name, COMMITTED / "outcomes" / name)
        for figure in result.outcome.figures:
            shutil.copy(figure, COMMITTED / "figures" / figure.name)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        take(Path(sys.argv[1]))
    found = kept(COMMITTED, quick=False)
    PAGE.write_text(text(found), encoding="utf-8")
    readme = README.read_text("utf-8")
    README.write_text(inserted(readme, block(found), BEGIN, END), encoding="utf-8")
    print(PAGE, README, sep="\n")
