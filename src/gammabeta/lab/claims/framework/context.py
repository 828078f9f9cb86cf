"""The settings that a claim runs with, and the cache of its results.

The result of each arm is cached on disk as soon as it is known. An interrupted run therefore
continues where it stopped, and a report can be made again without training.
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
    """Receives the progress of a claim."""

    def plan(self, runs: int) -> None:
        """The claim will request ``runs`` results."""

    def begin(self, label: str) -> None:
        """One of them is being computed."""

    def within(self, fraction: float) -> None:
        """The current result is this far, 0 … 1."""

    def done(self, label: str, was_kept: bool) -> None:
        """A result is available; ``was_kept`` if it was already cached."""


class Silent:
    """Ignores all progress."""

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
    """The argument of a claim's ``run``.

    Attributes:
        folder: folder for results, records and figures.
        quick: use the short protocol.
        seeds: seeds for weights and mini-batches; every arm runs with each.
        data: name of the data set.
        data_dir: its folder, None for the default.
        scale: multiplies every number of steps; below 1 for tests only.
        progress: receives the progress.
        claim: the claim this context is bound to, see `of`.
        seconds: time that each result of this claim took, cached results included.
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
        """Return this context with another ``progress``."""
        return replace(self, progress=progress)

    def images(self) -> Dataset:
        """Return the data set."""
        return load(self.data, self.data_dir)

    def steps(self, full: int, quick: int | None = None) -> int:
        """Return how many steps to take: ``quick`` (or ``full``) if quick, times the scale."""
        count = full if quick is None or not self.quick else quick
        return max(2, round(count * self.scale))

    def plan(self, runs: int) -> None:
        """Announce the number of results, so that the remaining time can be estimated."""
        self.progress.plan(runs)

    def run(
        self,
        key: Mapping[str, Any],
        function: Callable[[], dict[str, Any]],
        shared: str = "",
    ) -> dict[str, Any]:
        """Return the result of ``function``, computed once and cached under ``key``.

        Args:
            key: everything that determines the result besides the claim, the version of its
                protocol, the data (its files, if their folder was given) and the scale: arm, seed,
                steps, rate, … The progress shows it too.
            function: computes the result: numbers, strings, lists and dicts. NaN and infinity
                are preserved.
            shared: name and version of a protocol that several claims share; the result is
                then cached for all of them.

        Raises:
            OSError: the result cannot be written.
            TypeError: key or result cannot be represented in JSON.
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
            if found["by"] == self._bound().name:  # otherwise the time counts for the other claim
                self.seconds.append(found["seconds"])
            self.progress.done(label, was_kept=True)
            return result
        self.progress.begin(label)
        began = time.monotonic()
        result = json.loads(json.dumps(function()))  # the same types as when read from the cache
        self.seconds.append(round(time.monotonic() - began, 3))
        made = {"by": self._bound().name, "seconds": self.seconds[-1]}
        store.keep(path, {"key": whole, "result": result, **made})
        self.progress.done(label, was_kept=False)
        return result

    def record(self, name: str) -> Path:
        """Return the path of the `gammabeta.signal.Record` called ``name``.

        Files that an interrupted run left there are deleted.
        """
        path = self.folder / "runs" / self._bound().name / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return path

    def figure(self, name: str) -> Path:
        """Return the path of the figure called ``name``."""
        path = self.folder / "figures" / f"{self._bound().name}-{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _bound(self) -> Claim:
        if self.claim is None:
            raise ValueError("claim=None: this context belongs to no claim; use context.of(claim)")
        return self.claim
