"""What a watch costs: of a step, of a run, of memory and of disk, beside what others charge.

A *frame* is a training step that is recorded. Its cost is that of the step with the watch less that
of the same step of an unwatched copy of the network, in the same round. ``frame`` is what the
training thread waits; ``written`` ends when the record's writer has written the frame, too.
"""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.watch_growth import measure_disk, measure_memory
from gammabeta.lab.bench.watch_loop import Clock, Loop, alternate
from gammabeta.lab.bench.watch_nets import NETWORKS, Network, load
from gammabeta.lab.bench.watch_rivals import RIVALS, rival, tensors_like
from gammabeta.lab.bench.watch_rows import absent_row, network_row
from gammabeta.names import known
from gammabeta.signal import Run, watch

BLOCK = 10
"""Steps of a network before it is the other one's turn, where a whole run is measured."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        models: of `NETWORKS`.
        batch: examples in a mini-batch.
        size: height and width of a picture.
        rounds: steps that are timed for the cost of a frame.
        steps: steps of a run at the default budget; 0 for no run.
        soak: frames for the growth of memory; 0 to leave it out.
        record: frames of a record of 1,000 probes, for its size; 0 to leave it out.

    Raises:
        ValueError: a number is out of range, or a name is not of `NETWORKS`.
    """

    models: Sequence[str]
    batch: int
    size: int
    rounds: int
    steps: int
    soak: int
    record: int

    def __post_init__(self) -> None:
        for name in self.models:
            known("models", name, NETWORKS)
        for argument, least, most in (
            *(("batch", 2, 4096), ("size", 1, 4096), ("rounds", 1, 10_000)),
            *(("steps", 0, 10**6), ("soak", 0, 10**8), ("record", 0, 10**6)),
        ):
            value = getattr(self, argument)
            if not least <= value <= most:
                raise ValueError(f"{argument}={value} must be between {least} and {most}")
        if not self.cases:
            raise ValueError("nothing to measure: give --models, --soak or --record")

    @property
    def cases(self) -> int:
        """Number of cases: the networks, memory, disk."""
        return len(self.models) + (self.soak > 0) + (self.record > 0)


QUICK = Plan(["small"], batch=4, size=16, rounds=3, steps=20, soak=200, record=3)
"""A smoke test."""


def measure_frame(
    network: Network, setting: Setting, *, rounds: int, rivals: Sequence[str] = RIVALS
) -> list[Row]:
    """Return what a frame costs, beside a plain step and beside others' histograms."""
    rows = []
    with TemporaryDirectory() as made, ExitStack() as stack:
        folder = Path(made)
        plain, watched = Loop(network), Loop(network)
        signal = stack.enter_context(watch(watched.model, folder / "run", every=1))
        watched.signal = signal
        watched()
        watched.write()
        counts = _counts(folder / "run.sqlite")
        tensors = tensors_like(counts, plain.model, lambda: network.loss(plain.model))
        contenders: dict[str, Callable[[], object]] = {
            "plain": plain,
            "frame": watched,
            "written": watched.written,
        }
        absent = {}
        for who in rivals:
            try:
                contenders[who] = stack.enter_context(rival(who, tensors, folder))
            except Absent as e:
                absent[who] = str(e)
        times = alternate(contenders, rounds, settle=watched.write)
        step = np.array(times.pop("plain"))
        note = f"{len(counts)} probes"
        rows.append(network_row(setting, network, "step", "plain", step, note))
        for who in ("frame", "written"):
            rows.append(
                network_row(setting, network, "frame", who, np.array(times.pop(who)) - step, note)
            )
        rows += [
            network_row(setting, network, "frame", who, np.array(t)) for who, t in times.items()
        ]
        rows += [
            network_row(setting, network, "frame", who, None, why) for who, why in absent.items()
        ]
    return rows


def measure_run(
    network: Network,
    setting: Setting,
    *,
    steps: int,
    block: int = BLOCK,
    clock: Clock = time.perf_counter,
) -> list[Row]:
    """Return the seconds of ``steps`` steps, watched at the defaults and not.

    The two runs take turns, ``block`` steps at a time. Beginning and closing the watch counts.
    """
    loops = {"plain": Loop(network), "watched": Loop(network)}
    taken = {"plain": 0.0, "watched": 0.0}
    order = random.Random(0)
    for loop in loops.values():
        loop()
    with TemporaryDirectory() as made:
        path = Path(made) / "run"
        start = clock()
        signal = watch(loops["watched"].model, path)
        taken["watched"] += clock() - start
        loops["watched"].signal = signal
        gc.collect()
        for first in range(0, steps, block):
            for name in order.sample(list(loops), len(loops)):
                start, began = clock(), time.monotonic()
                for _ in range(min(block, steps - first)):
                    loops[name]()
                taken[name] += clock() - start
                if name == "plain":  # the budget is a share of the watched run's own time
                    signal._began += time.monotonic() - began
        start = clock()
        signal.close()
        taken["watched"] += clock() - start
        with Run(path.with_suffix(".sqlite")) as run:
            frames = sum(1 for _ in run.frames())
    return [
        network_row(
            setting, network, "run", who, np.array([seconds]), f"{steps} steps, {frames} frames"
        )
        for who, seconds in taken.items()
    ]


def measure_doctor(
    network: Network, setting: Setting, *, steps: int, clock: Clock = time.perf_counter
) -> list[Row]:
    """Return the seconds of ``steps`` steps under ``doctor=True``, and those the doctor takes.

    The doctor's are processor time of the training thread, which it measures itself.
    """
    loop = Loop(network)
    loop()
    with (
        TemporaryDirectory() as made,
        watch(loop.model, Path(made) / "run", doctor=True) as signal,
    ):
        loop.signal = signal
        start = clock()
        for _ in range(steps):
            loop()
        seconds, spent = clock() - start, signal._attendant.spent
    taken = {"run": seconds, "doctor": spent}
    return [
        network_row(setting, network, "doctor", who, np.array([each]), f"{steps} steps")
        for who, each in taken.items()
    ]


def measure(plan: Plan, setting: Setting) -> Iterator[list[Row]]:
    """Yield the rows of one network after the other, then those of memory and disk."""
    for name in plan.models:
        try:
            network = load(name, plan.batch, plan.size)
        except Absent as e:
            yield [absent_row(setting, name, str(e))]
            continue
        rows = measure_frame(network, setting, rounds=plan.rounds)
        if plan.steps:
            rows += measure_run(network, setting, steps=plan.steps)
            rows += measure_doctor(network, setting, steps=plan.steps)
        yield rows
    if plan.soak:
        yield measure_memory(setting, frames=plan.soak)
    if plan.record:
        yield measure_disk(setting, frames=plan.record)


def _counts(path: Path) -> list[int]:
    """Return the number of values of each probe in the last frame, parameters left out."""
    with Run(path) as run:
        stages = {probe.id: probe.stage for probe in run.probes()}
        *_, frame = run.frames()
    return [
        summary.count
        for probe, summary in frame.signals.items()
        if stages[probe] not in _PARAMETERS
    ]


_PARAMETERS = ("weight", "gamma", "beta", "mean_shift", "var_ratio")
