"""What the engine costs over a bare loop: ``python scripts/measure_engine.py``.

Both train the same small BN-Inception on the same images, in turns within one process: each time
the engine reports, it is made to wait while the bare loop takes as many steps. Printed are the
medians of the rounds, and of the ratio of neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from gammabeta.lab.data import load_images
from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.network import build, describe
from gammabeta.lab.train.plan import Plan
from gammabeta.lab.train.progress import Progress
from gammabeta.lab.train.recipes import recipe
from gammabeta.lab.train.run import fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--size", type=int, default=28)
    parser.add_argument("--width", type=float, default=0.25)
    parser.add_argument("--steps", type=int, default=20, help="a round")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plan = Plan(
        data=options.data,
        size=options.size,
        width=options.width,
        steps=options.steps * (options.rounds + 1),
        evaluate_every=0,
        checkpoint_every=0,
        log_every=options.steps,
    )
    bold = recipe("bn-x5")
    images = load_images(plan.data, size=plan.size)
    model = build(bold, plan, describe(images))
    optimizer = bold.optimizer(model)
    mean = torch.tensor(images.mean).view(1, -1, 1, 1) * 255
    std = torch.tensor(images.std).view(1, -1, 1, 1) * 255
    x, y = images.train.images, images.train.labels
    order = torch.randperm(len(y))
    at = 0

    def bare() -> None:
        nonlocal at
        chosen = order[at : at + bold.batch_size]
        at = at + bold.batch_size if at + 2 * bold.batch_size <= len(order) else 0
        scores = model((x[chosen].float() - mean) / std)
        optimizer.zero_grad()
        F.cross_entropy(scores, y[chosen]).backward()
        optimizer.step()

    engine_times, bare_times = [], []
    ended = 0.0

    def turn(progress: Progress) -> None:
        nonlocal ended
        began = time.perf_counter()
        if ended:  # the first round warms up
            engine_times.append((began - ended) / options.steps)
        model.train()
        middle = time.perf_counter()
        for _ in range(options.steps):
            bare()
        if ended:
            bare_times.append((time.perf_counter() - middle) / options.steps)
        ended = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        # The last round ends with an evaluation and a checkpoint, and is left out.
        fit(bold, plan, Path(folder), images=images, report=turn)
        held = checkpoint.read(checkpoint.newest(Path(folder)))
        began = time.perf_counter()
        checkpoint.write(Path(folder, "again.pt"), held)
        saving = time.perf_counter() - began
    engine_times.pop()
    bare_times.pop()
    ratios = [e / b for e, b in zip(engine_times, bare_times, strict=True)]
    print(f"{len(ratios)} rounds of {options.steps} steps, {options.threads} threads")
    print(f"bare loop   {statistics.median(bare_times) * 1e3:8.2f} ms a step")
    print(f"engine      {statistics.median(engine_times) * 1e3:8.2f} ms a step")
    low, *_, high = sorted(ratios)
    print(f"ratio       {statistics.median(ratios):8.3f} (from {low:.3f} to {high:.3f})")
    print(f"checkpoint  {saving * 1e3:8.1f} ms")


if __name__ == "__main__":
    main()
