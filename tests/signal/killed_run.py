"""Runs to be killed: a program that trains again and again, each time in a process of its own.

It forks, so that 20 runs pay for one import of torch. For every line "PATH SECONDS EVERY" on
standard input it trains a small watched network into PATH, kills that process with SIGKILL after
SECONDS, and answers with one line: the last step the run had reported as committed (0 for none).
The run flushes and reports every EVERY steps; between two reports the kill meets a busy writer.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
import tempfile
import time

import torch
from torch import nn

from gammabeta.signal import Cadence, watch


def train(path: str, steps: int, every: int, report: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh()),
        *(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Tanh()),
        nn.Linear(8, 2),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(16, 4), torch.randint(2, (16,))
    with watch(model, path, cadence=Cadence(early=1_000_000)) as watched:
        for step in range(1, steps + 1):
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            watched.step(loss=loss)
            if step % every == 0:
                watched.record.flush()
                os.write(report, struct.pack("<i", step))


def main() -> None:
    torch.set_num_threads(1)  # no thread may be lost in a fork
    with tempfile.TemporaryDirectory() as folder:  # what torch imports at first use, once for all
        train(f"{folder}/first.sqlite", 2, 10, -1)
    for line in sys.stdin:
        path, seconds, every = line.rstrip("\n").split("\t")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                train(path, 1_000_000, int(every), writing)
            finally:
                os._exit(1)  # it was to be killed, not to end
        os.close(writing)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        reports = b""
        while chunk := os.read(reading, 1 << 16):
            reports += chunk
        os.close(reading)
        assert os.WTERMSIG(status) == signal.SIGKILL, status
        steps = [step for (step,) in struct.iter_unpack("<i", reports)]
        print(steps[-1] if steps else 0, flush=True)


if __name__ == "__main__":
    main()
