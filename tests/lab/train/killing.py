"""Runs training in a child and kills it at random moments, until it is done: ``killing.py FOLDER``.

Prints how often it was killed, and at which checkpoints it went on.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from gammabeta.lab.train import checkpoint
from gammabeta.lab.train.run import fit, resume
from tests.lab.train.small import PLAN, Small, rebuild

STEPS = 300


def child(folder: Path, cadence: int) -> None:
    if checkpoint.steps(folder):
        resume(folder, rebuild=rebuild, checkpoint_every=cadence)
    else:
        fit(Small(), replace(PLAN, steps=STEPS, checkpoint_every=cadence), folder)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as warm:  # what torch imports at a first step is slow
        fit(Small(), replace(PLAN, steps=1), Path(warm))
    moments = random.Random(4)
    deaths, resumed = 0, set()
    while True:
        found = checkpoint.steps(folder)
        resumed.add(found[0].name if found else "nothing")
        pid = os.fork()
        if pid == 0:
            try:
                child(folder, cadence=moments.choice([5, 7, 20]))
            except BaseException as e:
                print(e, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        end = time.monotonic() + moments.uniform(0.02, 0.25)
        while time.monotonic() < end and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.005)
        try:
            os.kill(pid, signal.SIGKILL)
            deaths += os.waitpid(pid, 0)[1] == signal.SIGKILL
        except (ProcessLookupError, ChildProcessError):
            break  # it ended by itself
    print(deaths, len(resumed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
