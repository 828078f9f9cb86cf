"""What the results of `gammabeta.lab.bench.zoo` say: counts, the worst distances, what differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from gammabeta.lab.bench.zoo_case import CHECKS, Result
from gammabeta.table import table

STATUSES = {
    "same": "all checks pass",
    "chaotic": "all checks pass; torch's own float32 results are far from float64",
    "differs": "a check fails",
    "no norms": "nothing to convert",
    "left out": "does not run here",
}
"""Status → what it means."""

FORMS = ("converted", "fused", "kernels", "folded")


def line(result: Result) -> str:
    """Summarize one network in one line."""
    parts = [f"{result.network}: {result.status}"]
    if result.converted:
        parts.append(
            f"{result.converted} of {result.norms} norms converted, {result.fused} fused, "
            f"{max(0, result.folded)} folded"
        )
    return ", ".join([*parts, *result.failures, *([result.note] if result.note else [])])


def counts_table(results: Sequence[Result]) -> str:
    """Lay out how many networks have each status, by library."""
    libraries = sorted({library(result) for result in results})
    counted = Counter((library(result), result.status) for result in results)
    lines = [
        [status, meaning, *(str(counted[of, status]) for of in libraries)]
        for status, meaning in STATUSES.items()
    ]
    total = ["all", "", *(str(sum(library(r) == of for r in results)) for of in libraries)]
    return table(["status", "meaning", *libraries], [*lines, total], left=2)


def library(result: Result) -> str:
    """Return the library of a result's network."""
    return result.network.partition(":")[0]


def ratios_table(results: Sequence[Result]) -> str:
    """Lay out our distance from float64 over torch's: median and largest, check by check.

    Networks whose torch distance is below a millionth are left out: there is nothing to divide by.
    """
    lines = []
    for form in FORMS:
        for check in CHECKS:
            ratios = sorted(
                far / near
                for result in results
                if result.status in ("same", "differs")
                for near, far in [result.figures.get(f"{form} {check}", (0.0, 0.0))]
                if near > 1e-6
            )
            if ratios:
                middle, high = (ratios[int(q * (len(ratios) - 1))] for q in (0.5, 0.95))
                cells = [f"{value:.2f}" for value in (middle, high, ratios[-1])]
                lines.append([form, check, str(len(ratios)), *cells])
    return table(["form", "check", "networks", "median", "95 %", "largest"], lines, left=2)


def differing(results: Sequence[Result]) -> list[str]:
    """Return a line for each network that differs."""
    return [
        f"{result.network}: {'; '.join(result.failures)}"
        for result in results
        if result.status == "differs"
    ]


def reasons(results: Sequence[Result], status: str) -> list[tuple[str, int, str]]:
    """Return (reason, how many networks, an example) for those with ``status``, most first.

    Numbers and names in a reason that differ from network to network are taken as the same.
    """
    found: dict[str, list[Result]] = {}
    for result in results:
        if result.status == status:
            key = re.sub(r"\d+", "N", result.note) or "no normalization layers"
            found.setdefault(key, []).append(result)
    ordered = sorted(found.values(), key=len, reverse=True)
    return [(own[0].note or "no normalization layers", len(own), own[0].network) for own in ordered]
