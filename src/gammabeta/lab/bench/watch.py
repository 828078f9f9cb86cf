"""What a watch costs: of a step, of a run, of memory and of disk, beside what others charge.

A *frame* is a training step that is recorded. Its cost is that of the step with the watch less that
of the same step of an unwatched copy of the network, in the same round. ``frame`` is what the
training thread waits; ``written`` ends when the record's writer has written the frame, too.
"""

from __future__ import annotations

import copy
import gc
import math
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from gammabeta.lab.bench.results import Row, Setting
from gammabeta.lab.bench.rivals import Absent
from gammabeta.lab.bench.watch_nets import NETWORKS, Network, load
from gammabeta.lab.bench.watch_rivals import RIVALS, rival, tensors_like
from gammabeta.names import known
from gammabeta.signal import Cadence, Run, Watch, watch

BLOCK = 10
"""Steps of a network before it is the other one's turn, where a whole run is measured."""

Clock = Callable[[], float]


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


class Loop:
    """A training loop: each call takes one step.

    Args:
        network: a copy of it is trained.
        lr: learning rate; by default so small that the values, and with them the time, stay the
            same.

    Attributes:
        signal: the watch whose ``step`` is called after each step, if there is one.
    """

    def __init__(self, network: Network, lr: float = 1e-4) -> None:
        self.model = copy.deepcopy(network.model)
        self.signal: Watch | None = None
        self._loss = network.loss
        self._optimizer = torch.optim.SGD(self.model.parameters(), lr=lr, momentum=0.9)

    def __call__(self) -> None:
        """Take one step."""
        self._optimizer.zero_grad()
        loss = self._loss(self.model)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        if self.signal is not None:
            self.signal.step(loss=loss)

    def written(self) -> None:
        """Take one step, and wait until it is written."""
        self()
        self.write()

    def write(self) -> None:
        """Wait until the record has all frames."""
        if self.signal is not None:
            self.signal.record.flush()


def alternate(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    settle: Callable[[], object] = lambda: None,
    seed: int = 0,
    clock: Clock = time.perf_counter,
) -> dict[str, list[float]]:
    """Time one call of each contender a round, in an order drawn anew.

    Args:
        contenders: name → what to call.
        rounds: number of rounds that are timed; one more comes before.
        settle: called after each call, outside the time.
        seed: of the orders.
        clock: a clock in seconds.

    Returns:
        name → seconds, a round each.

    Example:
        >>> {name: len(times) for name, times in alternate({"sum": lambda: sum([1])}, 3).items()}
        {'sum': 3}
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds} must be at least 1")
    order = random.Random(seed)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    gc.collect()  # and meanwhile as it comes: what frames leave behind is a part of their cost
    for round_ in range(rounds + 1):
        for name in order.sample(list(contenders), len(contenders)):
            start = clock()
            contenders[name]()
            taken = clock() - start
            settle()
            if round_:
                times[name].append(taken)
    return times


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
        rows.append(_row(setting, network, "step", "plain", step, note))
        for who in ("frame", "written"):
            rows.append(_row(setting, network, "frame", who, np.array(times.pop(who)) - step, note))
        rows += [_row(setting, network, "frame", who, np.array(t)) for who, t in times.items()]
        rows += [_row(setting, network, "frame", who, None, why) for who, why in absent.items()]
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
        _row(setting, network, "run", who, np.array([seconds]), f"{steps} steps, {frames} frames")
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
        _row(setting, network, "doctor", who, np.array([each]), f"{steps} steps")
        for who, each in taken.items()
    ]


def measure(plan: Plan, setting: Setting) -> Iterator[list[Row]]:
    """Yield the rows of one network after the other, then those of memory and disk."""
    for name in plan.models:
        try:
            network = load(name, plan.batch, plan.size)
        except Absent as e:
            yield [_absent(setting, name, str(e))]
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


def measure_memory(setting: Setting, *, frames: int, samples: int = 100) -> list[Row]:
    """Return the growth of this process's memory a frame, over ``frames`` frames of a small model.

    The growth is the slope of a line through the samples after the first fifth.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 4))
    x = torch.randn(64, 16)
    network = Network("four small layers", model, lambda net: net(x).square().mean(), "64x16")
    loop = Loop(network)
    at, held = [], []
    with TemporaryDirectory() as made, watch(loop.model, Path(made) / "run", every=1) as signal:
        loop.signal = signal
        every = max(1, frames // samples)
        for frame in range(1, frames + 1):
            loop()
            if frame % every == 0:
                loop.write()
                at.append(frame)
                held.append(resident_bytes())
    late = slice(len(at) // 5, None)
    slope = float(np.polyfit(at[late], held[late], 1)[0]) if len(at) >= 3 else math.nan
    note = f"{frames} frames; {held[0] / 2**20:.1f} MiB at first, {held[-1] / 2**20:.1f} at last"
    return [
        _row(setting, network, "memory", "watched", np.array([slope]), note, unit="bytes/frame")
    ]


def measure_disk(setting: Setting, *, frames: int, layers: int = 250) -> list[Row]:
    """Return the size of a record of some 1,000 probes, scaled to 1,000 probes and 1,000 frames.

    The model is a chain of linear, layer norm and ReLU on 64 × 128 values, four stages a layer.
    """
    torch.manual_seed(0)
    blocks = [
        nn.Sequential(nn.Linear(128, 128), nn.LayerNorm(128), nn.ReLU()) for _ in range(layers)
    ]
    model = nn.Sequential(*blocks)
    x = torch.randn(64, 128)
    network = Network(f"{layers} layers", model, lambda net: net(x).square().mean(), "64x128")
    loop = Loop(network, lr=0.1)  # the histograms must change from frame to frame
    with TemporaryDirectory() as made:
        path = Path(made) / "run.sqlite"
        stages = ("z", "normalized", "affine", "activation")
        cadence = Cadence(early=frames)  # as `every=1`, with samples of the largest size
        with watch(loop.model, path, cadence=cadence, stages=stages) as signal:
            loop.signal = signal
            for _ in range(frames):
                loop()
        with Run(path) as run:
            probes = len(run.probes())
            frames = sum(1 for _ in run.frames())
        size = path.stat().st_size
    note = f"{size / 1e6:.1f} MB for {probes} probes × {frames} frames"
    scaled = np.array([size / max(1, probes * frames) * 1e6])
    return [_row(setting, network, "record", "watched", scaled, note, unit="bytes")]


def resident_bytes() -> int:
    """Return how much of this process is in RAM.

    Raises:
        Absent: the system has no ``/proc``.

    Example:
        >>> resident_bytes() > 2**20
        True
    """
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError as e:
        raise Absent("this system has no /proc/self/statm") from e
    return pages * os.sysconf("SC_PAGE_SIZE")


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


def _row(
    setting: Setting,
    network: Network,
    what: str,
    who: str,
    values: np.ndarray[Any, Any] | None,
    note: str = "",
    unit: str = "s",
) -> Row:
    q20, q50, q80 = (
        (math.nan,) * 3 if values is None else map(float, np.quantile(values, (0.2, 0.5, 0.8)))
    )
    return Row(
        setting,
        "watch",
        case=network.name,
        dtype="fp32",
        layout="nchw",
        shape=network.shape,
        what=what,
        who=who,
        unit=unit,
        q20=q20,
        q50=q50,
        q80=q80,
        rounds=0 if values is None else len(values),
        note=note,
    )


def _absent(setting: Setting, name: str, why: str) -> Row:
    nothing = Network(name, nn.Identity(), lambda net: torch.zeros(()), "")
    return _row(setting, nothing, "step", "plain", None, why)
