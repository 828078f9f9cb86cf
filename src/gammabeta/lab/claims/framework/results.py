"""The outcomes of a folder: kept one by one, read back for the report."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import gammabeta
from gammabeta.lab.claims.framework import store
from gammabeta.lab.claims.framework.claim import Claim, Number, Outcome
from gammabeta.lab.claims.framework.context import Context
from gammabeta.lab.claims.framework.registry import claims


@dataclass(frozen=True)
class Result:
    """A claim's outcome and how it came about.

    Attributes:
        claim: the claim.
        outcome: what came out.
        seconds: what its results took, when they were computed.
        quick, data, seeds: as in `Context`.
        when, where: date; versions and machine.
    """

    claim: Claim
    outcome: Outcome
    seconds: float
    quick: bool
    data: str
    seeds: Sequence[int]
    when: str
    where: str


def keep(context: Context, claim: Claim, outcome: Outcome, seconds: float) -> Result:
    """Keep ``outcome`` in the folder of ``context``.

    Raises:
        OSError: it cannot be written.
    """
    result = Result(
        claim,
        outcome,
        seconds,
        context.quick,
        context.data,
        tuple(context.seeds),
        datetime.date.today().isoformat(),
        f"gammabeta {gammabeta.__version__}, torch {torch.__version__}, "
        f"{platform.machine()}, {torch.get_num_threads()} thread"
        f"{'s' if torch.get_num_threads() > 1 else ''}",
    )
    store.keep(
        _path(context.folder, claim),
        {
            "claim": claim.name,
            "version": claim.version,
            "numbers": [asdict(number) for number in outcome.numbers],
            "verdict": outcome.verdict,
            "because": outcome.because,
            "figures": [figure.name for figure in outcome.figures],
            "notes": list(outcome.notes),
            "headline": outcome.headline,
            "seconds": seconds,
            "quick": context.quick,
            "data": context.data,
            "seeds": list(context.seeds),
            "when": result.when,
            "where": result.where,
        },
    )
    return result


def kept(folder: Path, quick: bool) -> list[Result]:
    """Return what ``folder`` holds of today's claims, in their order.

    Outcomes of another version of a protocol, or of the other length, are left out.
    """
    read = (_read(folder, claim, quick) for claim in claims().values())
    return [result for result in read if result is not None]


def _read(folder: Path, claim: Claim, quick: bool) -> Result | None:
    """What is kept of ``claim``; None for nothing, for another version's, or for no outcome."""
    value = store.kept(_path(folder, claim))
    try:
        if value is None or (value["version"], value["quick"]) != (claim.version, quick):
            return None
        outcome = Outcome(
            [Number(**number) for number in value["numbers"]],
            value["verdict"],
            value["because"],
            [folder / "figures" / name for name in value["figures"]],
            value["notes"],
            value["headline"],
        )
        context = (value["quick"], value["data"], value["seeds"])
        return Result(claim, outcome, value["seconds"], *context, value["when"], value["where"])
    except (KeyError, TypeError, ValueError):
        return None


def _path(folder: Path, claim: Claim) -> Path:
    return folder / "outcomes" / f"{claim.name}.json"
