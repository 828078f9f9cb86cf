"""Where a claim runs: how much, with which seeds, on which data, and what is kept of it.

Each arm's result is kept on disk as soon as there is one, so that a run that was stopped goes on
where it was, and a report can be made again without training anything.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from gammabeta.lab.claims.framework import store
from gammabeta.lab.claims.framework.claim import Claim
from gammabeta.lab.claims.framework.images import fingerprint, load
from gammabeta.lab.data.flat import Dataset

SEEDS = (0, 1, 2)
DATA = "fashion-mnist"


class Progress(Protocol):
    """Who is told how far a claim is."""

    def plan(self, runs: int) -> None:
        """The claim will ask for ``runs`` results."""

    def begin(self, label: str) -> None:
        """One of them is being computed."""

    def within(self, fraction: float) -> None:
        """It is so far, 0 … 1."""

    def done(self, label: str, was_kept: bool) -> None:
        """It is there; ``was_kept`` if it had been kept from before."""


class Silent:
    """Progress that nobody watches."""

    def plan(self, runs: int) -> None:
        """Ignore it."""

    def begin(self, label: str) -> None:
        """Ignore it."""

    def within(self, fraction: float) -> None:
        """Ignore it."""

    def done(self, label: str, was_kept: bool) -> None:
        """Ignore it."""


@dataclass(frozen=True)
class Context:
    """What a claim's ``run`` is given.

    Attributes:
        folder: of all that is kept.
        quick: whether the short protocol is asked for.
        seeds: of weights and mini-batches; every arm runs with each.
        data: name of the images.
        data_dir: their folder, None for the usual place.
        scale: multiplies every number of steps; below 1 for tests only.
        progress: who is told.
        claim: the claim it is bound to, see `of`.
        seconds: what each result took that was computed for this claim, now or before.
    """

    folder: Path
    quick: bool = False
    seeds: Sequence[int] = SEEDS
    data: str = DATA
    data_dir: Path | None = None
    scale: float = 1.0
    progress: Progress = field(default_factory=Silent)
    claim: Claim | None = None
    seconds: list[float] = field(default_factory=list)

    def of(self, claim: Claim) -> Context:
        """Return this context bound to ``claim``: its results, records and figures."""
        return replace(self, claim=claim, seconds=[])

    def following(self, progress: Progress) -> Context:
        """Return this context telling ``progress``."""
        return replace(self, progress=progress)

    def images(self) -> Dataset:
        """Return the data set that was asked for."""
        return load(self.data, self.data_dir)

    def steps(self, full: int, quick: int | None = None) -> int:
        """Return how many steps to take: ``quick`` (or ``full``) if quick, times the scale."""
        count = full if quick is None or not self.quick else quick
        return max(2, round(count * self.scale))

    def plan(self, runs: int) -> None:
        """Say how many results the claim will ask for, so that the time left can be told."""
        self.progress.plan(runs)

    def run(
        self,
        key: Mapping[str, Any],
        function: Callable[[], dict[str, Any]],
        shared: str = "",
    ) -> dict[str, Any]:
        """Return what ``function`` returns, computed once and kept under ``key``.

        Args:
            key: what decides the result and is not said by claim, version of its protocol, data
                (its files, where their folder was given) and scale: arm, seed, steps, rate, … It
                is also what the progress shows.
            function: computes the result: numbers, texts, lists and dicts. Not a number (NaN)
                and infinity are kept as such.
            shared: name of a protocol that several claims share, its version included; the
                result is then kept for all of them.

        Raises:
            OSError: the result cannot be kept.
            TypeError: key or result hold what JSON cannot.
        """
        owner = shared or self._bound().name
        whole = {
            "claim": owner,
            "version": 0 if shared else self._bound().version,
            "data": self.data,
            "scale": self.scale,
            **({} if self.data_dir is None else {"files": fingerprint(self.images())}),
            **key,
        }
        label = " · ".join(f"{name} {value}" for name, value in key.items())
        text = json.dumps(whole, sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()[:16]
        path = self.folder / "results" / owner / f"{name}.json"
        found = store.kept(path)
        if (
            found is not None
            and found.get("key") == json.loads(text)
            and {"result", "by", "seconds"} <= set(found)
        ):
            result: dict[str, Any] = found["result"]
            if found["by"] == self._bound().name:  # another claim's time is told there
                self.seconds.append(found["seconds"])
            self.progress.done(label, was_kept=True)
            return result
        self.progress.begin(label)
        began = time.monotonic()
        result = json.loads(json.dumps(function()))  # the same types now as when it is read again
        self.seconds.append(round(time.monotonic() - began, 3))
        made = {"by": self._bound().name, "seconds": self.seconds[-1]}
        store.keep(path, {"key": whole, "result": result, **made})
        self.progress.done(label, was_kept=False)
        return result

    def record(self, name: str) -> Path:
        """Return where a `gammabeta.signal.Record` called ``name`` goes, and make room for it.

        What an earlier run that was stopped left there is removed.
        """
        path = self.folder / "runs" / self._bound().name / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return path

    def figure(self, name: str) -> Path:
        """Return where the figure called ``name`` goes."""
        path = self.folder / "figures" / f"{self._bound().name}-{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _bound(self) -> Claim:
        if self.claim is None:
            raise ValueError("claim=None: this context belongs to no claim; use context.of(claim)")
        return self.claim
