"""Measure what a layer's call costs beside torch's own.

    python scripts/measure_layers.py [--rounds 100] [--threads 1]

Small tensors, where a fixed cost shows, and the tensors of a small transformer. The calls of both
layers run in random order in one process; medians of the rounds.
"""

import argparse
import random
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from gammabeta import layers

CASES: list[tuple[str, Callable[..., nn.Module], tuple[int, ...]]] = [
    ("BatchNorm1d", lambda source: source.BatchNorm1d(100), (64, 100)),
    ("BatchNorm2d", lambda source: source.BatchNorm2d(16), (32, 16, 8, 8)),
    ("BatchNorm2d", lambda source: source.BatchNorm2d(64), (32, 64, 28, 28)),
    ("LayerNorm", lambda source: source.LayerNorm(128), (32, 128)),
    ("LayerNorm", lambda source: source.LayerNorm(256), (32, 128, 256)),
    ("GroupNorm", lambda source: source.GroupNorm(4, 16), (32, 16, 8, 8)),
    ("InstanceNorm2d", lambda source: source.InstanceNorm2d(16), (32, 16, 8, 8)),
    ("RMSNorm", lambda source: source.RMSNorm(128), (32, 128)),
    ("RMSNorm", lambda source: source.RMSNorm(256), (32, 128, 256)),
]
MODES = ("train", "eval", "backward")
"""Forward in training, forward in evaluation, forward and backward in training."""


def microseconds(layer: nn.Module, x: Tensor, g: Tensor | None) -> float:
    calls = 20 if x.numel() < 100_000 else 2
    start = time.perf_counter()
    for _ in range(calls):
        y = layer(x)
        if g is not None:
            y.backward(g)
    return (time.perf_counter() - start) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="Time of a layer's call, torch's and ours.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")
    print(f"{'layer':<16}{'input':<18}{'mode':<10}{'torch µs':>9}{'ours µs':>9}{'ratio':>7}")
    for name, make, shape in CASES:
        for mode in MODES:
            backward = mode == "backward"
            x, pair = torch.randn(shape, requires_grad=backward), [make(nn), make(layers)]
            g = torch.randn(shape) if backward else None
            for layer in pair:
                layer.train(mode != "eval").requires_grad_(backward)
                microseconds(layer, x, g)
            times: list[list[float]] = [[], []]
            for _ in range(options.rounds):  # in any order: the one after finds another memory
                for which in random.sample((0, 1), 2):
                    times[which].append(microseconds(pair[which], x, g))
            theirs, ours = map(statistics.median, times)
            size = "×".join(map(str, shape))
            print(f"{name:<16}{size:<18}{mode:<10}{theirs:9.1f}{ours:9.1f}{ours / theirs:7.2f}")


if __name__ == "__main__":
    main()
