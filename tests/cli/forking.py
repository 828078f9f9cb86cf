"""Many command lines for the price of one start: a program that imports once and forks for each.

Every line on standard input is a JSON object {args, folder, out, err, env, interrupt}; in a child
process it runs ``gammabeta ARGS`` in ``folder`` with its output in the files ``out`` and ``err``,
and is answered with one line: the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from typing import Any

import torch

from gammabeta.cli import main
from gammabeta.doctor import RULES

SECONDS = 60


def run(request: dict[str, Any]) -> int:
    """Be the command, as far as a person can see."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if request["interrupt"]:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, request["interrupt"] or SECONDS)
    os.chdir(request["folder"])
    os.environ.update(request["env"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644), number)
    sys.argv = ["gammabeta", *request["args"]]
    try:
        main()
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 1
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def serve() -> None:
    torch.set_num_threads(1)  # no thread may be lost in a fork
    list(RULES)  # loads them
    with tempfile.TemporaryDirectory() as folder:  # what torch imports at first use, once for all
        answers = os.dup(1)
        sys.argv = ["gammabeta", "demo", "--steps=2", "--no-server", f"--out={folder}/first"]
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        try:
            main()
        except SystemExit:
            sys.stdout.flush()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                os._exit(run(json.loads(line)))
            finally:
                os._exit(70)
        _, status = os.waitpid(child, 0)
        os.write(answers, b"%d\n" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    serve()
