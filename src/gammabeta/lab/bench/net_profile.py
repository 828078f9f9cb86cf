"""Where the time of a pass goes: the profiler's self times, summed by kind of operator."""

from __future__ import annotations

import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence

from torch.autograd.profiler import profile as profiler

from gammabeta.lab.bench.results import Row
from gammabeta.lab.bench.timing import Call
from gammabeta.table import table

KINDS = {
    "convolutions": re.compile("conv", re.IGNORECASE),
    "norms": re.compile("norm", re.IGNORECASE),
    "matrix products": re.compile(r"mm\b|mm_|mmBackward|linear|matmul|attention", re.IGNORECASE),
    "activations": re.compile(
        "relu|clamp|hardtanh|silu|gelu|sigmoid|hardswish|mish|threshold|elu|tanh|activation",
        re.IGNORECASE,
    ),
    "sums": re.compile(r"::add_?$|AddBackward|AccumulateGrad"),
    "copies": re.compile(r"copy_|::cat|CatBackward|clone|contiguous|CopyBackward"),
}
"""Kind → what its operators' names contain; the first that matches counts."""

OTHER, OUTSIDE = "other operators", "outside operators"
"""What no kind matches; and what the profiler assigns to no operator, such as Python's own time."""

WHO = ("bare", "torch", "converted")
"""The variants whose time is split."""


def kind(operator: str) -> str:
    """Return the kind of an operator, by its name in the profiler.

    Example:
        >>> kind("aten::native_batch_norm"), kind("aten::hardtanh_"), kind("aten::max_pool2d")
        ('norms', 'activations', 'other operators')
    """
    return next((name for name, pattern in KINDS.items() if pattern.search(operator)), OTHER)


def split(calls: Mapping[str, Call], rounds: int = 3) -> dict[str, dict[str, float]]:
    """Return the seconds of each kind of operator in a call, name by name.

    Args:
        calls: name → what is profiled; they take turns.
        rounds: how often each is; the median of each kind is returned.

    Example:
        >>> import torch
        >>> found = split({"relu": lambda: torch.relu(torch.ones(9))}, rounds=1)
        >>> found["relu"]["activations"] > 0
        True
    """
    taken: dict[str, dict[str, list[float]]] = {name: {} for name in calls}
    for call in calls.values():
        call()
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes two lines a profile to stderr
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            with profiler(use_kineto=False) as recorded:
                call()
                seconds = time.perf_counter() - start
            sums = dict.fromkeys((*KINDS, OTHER), 0.0)
            for event in recorded.key_averages():
                sums[kind(event.key)] += event.self_cpu_time_total / 1e6
            sums[OUTSIDE] = max(0.0, seconds - sum(sums.values()))
            for each, value in sums.items():
                taken[name].setdefault(each, []).append(value)
    return {
        name: {each: statistics.median(values) for each, values in kinds.items()}
        for name, kinds in taken.items()
    }


def kinds_table(rows: Sequence[Row]) -> str:
    """Lay out the rows of split times, in ms: a line a case and kind, a column a variant."""
    heads = ["network", "layout", "dtype", "mode", "kind"]
    found: dict[tuple[str, ...], dict[str, float]] = {}
    for row in rows:
        mode, _, of = row.what.partition(": ")
        if of:
            at = (row.case, row.layout, row.dtype, mode, of)
            found.setdefault(at, {})[row.who] = row.q50
    who = [name for name in WHO if any(name in times for times in found.values())]
    lines = [
        [*at, *(f"{1e3 * times[name]:.1f}" if name in times else "–" for name in who)]
        for at, times in found.items()
        if max(times.values()) >= 5e-5
    ]
    return table([*heads, *(f"{name}, ms" for name in who)], lines, left=5) if lines else ""
