"""The report of a folder of claims, as a self-contained HTML file and as Markdown."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from gammabeta.atomic_files import write_whole
from gammabeta.lab.claims.framework.claim import DOES_NOT_HOLD, HOLDS, UNDER_THIS_PROTOCOL, Outcome
from gammabeta.lab.claims.framework.context import DATA
from gammabeta.lab.claims.framework.figure import inlined
from gammabeta.lab.claims.framework.results import Result

TITLE = "Batch normalization's claims, measured"
_MARKS = {HOLDS: "yes", UNDER_THIS_PROTOCOL: "partly", DOES_NOT_HOLD: "no"}
_PLURALS = {
    HOLDS: "hold",
    UNDER_THIS_PROTOCOL: "hold under this protocol",
    DOES_NOT_HOLD: "do not hold here",
}
_STATIC = resources.files(__package__).joinpath("static")


def write(results: Sequence[Result], folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.md`` of ``results`` into ``folder``; return both paths.

    Raises:
        ValueError: there are no results.
        OSError: the files cannot be written; existing files are unchanged.
    """
    if not results:
        raise ValueError("results=[] must hold at least one claim's outcome")
    pages = folder / "report.html", folder / "report.md"
    write_whole(pages[0], page(results))
    write_whole(pages[1], markdown(results, folder))
    return pages


def page(results: Sequence[Result]) -> str:
    """Return the report as one HTML document with embedded figures."""
    body = [
        f'<p class="note">{_e(summary(results))}</p>',
        f'<p class="made">{_e(_made(results))}</p>',
        _board(results),
        *(_section(result) for result in results),
    ]
    template = _STATIC.joinpath("report.html").read_text("utf-8").split("%%")
    parts = {
        "TITLE": _e(TITLE),
        "STYLE": _STATIC.joinpath("report.css").read_text("utf-8"),
        "BODY": "\n".join(body),
    }
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(template))


def markdown(results: Sequence[Result], beside: Path) -> str:
    """Return the report as Markdown; figures are links relative to the folder ``beside``."""
    lines = [f"# {TITLE}", "", summary(results), "", _made(results), "", board(results)]
    for result in results:
        claim, outcome = result.claim, result.outcome
        lines += ["", f'## <a id="{claim.name}"></a>{claim.title}', "", claim.statement]
        lines += [f"({claim.source})", "", f"**{outcome.verdict}.** {outcome.because}", ""]
        for figure in outcome.figures:
            lines += [f"![{claim.title}]({Path(os.path.relpath(figure, beside)).as_posix()})", ""]
        lines += ["| measured | median | smallest … largest | the paper | target |"]
        lines += ["|---|---:|---:|---|---|"]
        for n in outcome.numbers:
            cells = (n.label, n.text(), n.spread(), n.paper, n.target)
            lines.append(f"| {' | '.join(map(_m, cells))} |")
        lines += ["", f"Protocol. {claim.protocol} {_as_run(result)}"]
        lines += ["", f"Criterion. {claim.criterion}"]
        for note in outcome.notes:
            lines += ["", f"- {note}"]
    return "\n".join(lines) + "\n"


def board(results: Sequence[Result], page: str = "") -> str:
    """Return the score board as a Markdown table that links to the claims on ``page``."""
    lines = ["| claim | the paper | here | verdict |", "|---|---|---|---|"]
    lines += [
        f"| [{_m(result.claim.title)}]({page}#{result.claim.name}) | {_m(result.claim.paper)} | "
        f"{_m(result.outcome.told())} | {result.outcome.verdict} |"
        for result in results
    ]
    return "\n".join(lines)


def summary(results: Sequence[Result]) -> str:
    """Return one line that counts the verdicts."""
    counts = {
        verdict: sum(result.outcome.verdict == verdict for result in results) for verdict in _MARKS
    }
    total = len(results)
    counted = ", ".join(
        f"{count} {verdict if count == 1 else _PLURALS[verdict]}"
        for verdict, count in counts.items()
        if count
    )
    return f"{total} claim{'s' if total > 1 else ''} put to the test: {counted}."


def _made(results: Sequence[Result]) -> str:
    """How the results were made, in one line for all."""
    last = max(results, key=lambda result: result.when)
    length = "quick protocol" if last.quick else "full protocol"
    data = ", ".join(dict.fromkeys(result.data for result in results))
    counts = sorted({len(result.seeds) for result in results})
    seeds = " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))
    minutes = sum(result.seconds for result in results) / 60
    return (
        f"{data} · {length} · {seeds} seeds, median and smallest … largest · "
        f"{minutes:.1f} minutes · {last.when} · {last.where}"
    )


def _as_run(result: Result) -> str:
    """Which variant of the protocol was run."""
    length = "quick" if result.quick else "full"
    instead = "" if result.data == DATA else f" on {result.data} in place of Fashion-MNIST,"
    return f"Run here{instead} with the {length} protocol and {len(result.seeds)} seeds."


def _board(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        claim = result.claim
        rows.append(
            f'<tr><th scope="row"><a href="#{claim.name}">{_e(claim.title)}</a></th>'
            f'<td data-head="the paper">{_e(claim.paper)}</td>'
            f'<td class="ours" data-head="here">{_ours(result.outcome)}</td>'
            f'<td class="verdict {_MARKS[result.outcome.verdict]}">'
            f"{_e(result.outcome.verdict)}</td></tr>"
        )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("claim", "the paper", "here", ""))
    head = head.replace('<th scope="col"></th>', '<th scope="col">verdict</th>')
    return (
        f'<table class="board"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def _ours(outcome: Outcome) -> str:
    if outcome.headline:
        first, _, rest = outcome.headline.partition(": ")
        return f"<b>{_e(first)}</b><small>{_e(rest)}</small>"
    number = outcome.numbers[0]
    spread = number.spread()
    small = f"{number.label}{f' ({spread})' if spread else ''}"
    small += f", target {number.target}" if number.target else ""
    return f"<b>{_e(number.text())}</b><small>{_e(small)}</small>"


def _section(result: Result) -> str:
    claim, outcome = result.claim, result.outcome
    rows = "".join(
        "<tr>"
        + "".join(f"<td>{_e(c)}</td>" for c in (n.label, n.text(), n.spread(), n.paper, n.target))
        + "</tr>"
        for n in outcome.numbers
    )
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("measured", "median", "smallest … largest", "the paper", "target")
    )
    figures = "".join(
        f'<figure tabindex="0">{inlined(figure.read_text("utf-8"))}</figure>'
        for figure in outcome.figures
    )
    notes = "".join(f"<li>{_e(note)}</li>" for note in outcome.notes)
    return (
        f'<section id="{claim.name}"><header>'
        f"<h2>{_e(claim.title)}</h2>"
        f'<span class="source">{_e(claim.source)}</span></header>'
        f'<p class="statement">{_e(claim.statement)}</p>'
        f'<p class="because"><span class="verdict {_MARKS[outcome.verdict]}">'
        f"{_e(outcome.verdict)}</span>{_e(outcome.because)}</p>"
        f"{figures}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="numbers of {claim.name}">'
        f'<table class="numbers"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
        f"<details><summary>Protocol and criterion</summary><p>{_e(claim.protocol)} "
        f"{_e(_as_run(result))}</p>"
        f"<p>{_e(claim.criterion)}</p></details>"
        f"{f'<ul>{notes}</ul>' if notes else ''}</section>"
    )


def _e(text: str) -> str:
    return html.escape(text)


def _m(text: str) -> str:
    return text.replace("|", "\\|")
