"""Run code as a program of its own without paying for its imports each time.

Python's fork server imports torch and gammabeta once, computes nothing, and forks for each program:
a crash, a changed default or a warning turned into an error stays in that child.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
import warnings
from pathlib import Path

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["torch", "gammabeta"])


def _program(code: str, folder: str, output: str) -> None:
    import torch  # loaded by the server

    torch.set_num_threads(1)  # two threads of two programs on two cores wait for each other
    os.environ["MPLBACKEND"] = "agg"
    os.chdir(folder)
    file = os.open(output, os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.argv = ["-c"]
    warnings.resetwarnings()
    warnings.simplefilter("error")
    try:
        exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def run_program(code: str, folder: Path, seconds: float = 200) -> tuple[int, str]:
    """Run ``code`` in ``folder`` as ``python -W error -c`` would.

    Returns:
        The exit status (negative: the signal that ended it), and what it printed.

    Raises:
        TimeoutError: it took longer than ``seconds``.
    """
    output = folder / ".output"
    child = _context.Process(target=_program, args=(code, str(folder), str(output)))
    child.start()
    child.join(seconds)
    if child.exitcode is None:
        child.kill()
        child.join()
        raise TimeoutError(f"the program ran for more than {seconds} s")
    printed = output.read_text(errors="replace") if output.exists() else ""
    output.unlink(missing_ok=True)
    return child.exitcode, printed
