"""Measure what a layer's call costs beside torch's own: python scripts/measure_layers.py [ROUNDS]

Small tensors on one CPU thread, where a fixed cost shows. The calls of both layers run in random
order in one process; medians of ROUNDS (default 200) runs of 20 calls, forward only.
"""

import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gammabeta import layers

CALLS = 20
CASES: list[tuple[str, Callable[..., nn.Module], tuple[int, ...]]] = [
    ("BatchNorm1d", lambda source: source.BatchNorm1d(100), (64, 100)),
    ("BatchNorm2d", lambda source: source.BatchNorm2d(16), (32, 16, 8, 8)),
    ("BatchNorm2d", lambda source: source.BatchNorm2d(64), (32, 64, 28, 28)),
    ("LayerNorm", lambda source: source.LayerNorm(128), (32, 128)),
    ("GroupNorm", lambda source: source.GroupNorm(4, 16), (32, 16, 8, 8)),
    ("InstanceNorm2d", lambda source: source.InstanceNorm2d(16), (32, 16, 8, 8)),
    ("RMSNorm", lambda source: source.RMSNorm(128), (32, 128)),
]


def microseconds(layer: nn.Module, x: Tensor) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        layer(x)
    return (time.perf_counter() - start) / CALLS * 1e6


def main(rounds: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(f"{'layer':<16}{'input':<18}{'mode':<7}{'torch µs':>9}{'ours µs':>9}{'ratio':>7}")
    for name, make, shape in CASES:
        for mode in ("train", "eval"):
            x, pair = torch.randn(shape), [make(nn), make(layers)]
            for layer in pair:
                layer.train(mode == "train")
                microseconds(layer, x)
            times: list[list[float]] = [[], []]
            for _ in range(rounds):  # in any order: the one after finds another memory
                for which in random.sample((0, 1), 2):
                    times[which].append(microseconds(pair[which], x))
            theirs, ours = map(statistics.median, times)
            size = "×".join(map(str, shape))
            print(f"{name:<16}{size:<18}{mode:<7}{theirs:9.1f}{ours:9.1f}{ours / theirs:7.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
