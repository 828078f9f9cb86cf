"""Throw random calls at the layers and the command line; print the seed of whatever goes wrong.

    python -m tests.fuzz layers --calls 10000          beside torch's, on every instruction set
    python -m tests.fuzz commands --calls 500          command lines that are wrong in some way
    python -m tests.fuzz layers --seed 7 --only 1234   one call again

Each runs in a process of its own, so that a crash or a hang is one more finding.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HANG = 60.0
"""Seconds after which a call is one that hangs."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("what", choices=("layers", "commands"))
    parser.add_argument("--calls", type=int, default=10_000, help="calls per instruction set")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--seed", type=int, default=None, help="default: a random one")
    parser.add_argument("--only", type=int, default=None, help="repeat one call")
    parser.add_argument("--kernels", default=None, help="default: each that this machine has")
    parser.add_argument("--worker", nargs=3, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(10**6)
    if options.worker:
        first, last, progress = options.worker
        return work(options, int(first), int(last), Path(progress))
    print(f"seed {options.seed}", flush=True)
    if options.what == "commands":
        from tests.fuzz import commands

        first, last = (
            (options.only, options.only + 1) if options.only is not None else (0, options.calls)
        )
        return commands.run(options.seed, first, last, time.monotonic() + options.seconds)
    from gammabeta.ops.cpu import library

    wrong = 0
    names = [options.kernels] if options.kernels else list(library.available())
    for name in names:
        wrong += drive(options, name, options.seconds / len(names))
    return min(wrong, 1)


def drive(options: argparse.Namespace, kernels: str, seconds: float) -> int:
    """Run all calls on ``kernels`` in workers, a new one after each that ended too soon."""
    end = time.monotonic() + seconds
    index, last = 0, options.calls
    if options.only is not None:
        index, last = options.only, options.only + 1
    start, wrong = index, 0
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        while index < last and time.monotonic() < end:
            progress.write_text(str(index))
            command = [
                sys.executable,
                "-m",
                "tests.fuzz",
                options.what,
                "--seed",
                str(options.seed),
            ]
            command += ["--kernels", kernels, "--worker", str(index), str(last), str(progress)]
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            code, seen, since = None, index, time.monotonic()
            while code is None:
                try:
                    code = child.wait(0.2)
                except subprocess.TimeoutExpired:
                    now = int(progress.read_text() or seen)
                    if now != seen:
                        seen, since = now, time.monotonic()
                    if time.monotonic() - since > HANG or time.monotonic() > end:
                        child.kill()
                        code = "hangs" if time.monotonic() <= end else "time is up"
            assert child.stdout is not None
            said = child.stdout.read()
            print(said, end="")
            wrong += said.count("WRONG ")
            index = int(progress.read_text() or seen) + 1
            if code not in (0, "time is up"):
                wrong += 1
                print(f"WRONG {kernels} {index - 1}: the process ended with {code}", flush=True)
    print(f"{kernels}: {index - start:,} calls, {wrong} wrong", flush=True)
    return wrong


def work(options: argparse.Namespace, first: int, last: int, progress: Path) -> int:
    """Run calls ``first`` to ``last``, noting each before it is made."""
    from gammabeta.ops.cpu import library, support
    from tests.fuzz import layers

    library.use(options.kernels)
    thresholds = support.SMALL
    with progress.open("r+") as file:
        for index in range(first, last):
            file.seek(0)
            file.write(str(index))
            file.flush()
            # Every other call: the kernels themselves, however small a tensor is.
            support.SMALL = thresholds if index % 2 else {}
            try:
                layers.run(options.seed, index)
            except layers.Wrong as e:
                print(f"WRONG {options.kernels} {index}: {e}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
