"""The command line: ``gammabeta demo | train | evaluate | view | doctor | …``, one file a command.

Every error a person can cause ends here as one line and exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import torch
import typer

from gammabeta import __version__
from gammabeta.cli import bench
from gammabeta.cli.demo import demo
from gammabeta.cli.doctor import doctor
from gammabeta.cli.evaluate import evaluate
from gammabeta.cli.info import info
from gammabeta.cli.options import command
from gammabeta.cli.reproduce import reproduce
from gammabeta.cli.terminal import printable
from gammabeta.cli.train import train
from gammabeta.cli.view import view

app = typer.Typer(name="gammabeta", add_completion=False, pretty_exceptions_enable=False)
command(app)(demo)
command(app)(train)
command(app)(evaluate)
command(app)(view)
command(app)(doctor)
command(app)(reproduce)
app.add_typer(bench.app)
app.command()(info)

# The base of the parser's own complaints. Newer Typer carries a Click of its own, which it does not
# name in public; its public exceptions know their ancestors.
_ParserError: type[typer.BadParameter] = next(
    c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException"
)


_LONGEST = 1_000
"""Characters of a complaint, which may repeat a value of any length."""


@app.callback(invoke_without_command=True)
def _alone(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Steady the signal in PyTorch networks."""
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line and exit."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # None where it is closed
            stream.reconfigure(errors="replace")  # a terminal without σ must not end a run
    try:
        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where a reader that has gone is no error
    except _ParserError as e:
        code = complain(_with_help(e))
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except (ValueError, TypeError, OSError) as e:
        code = complain(str(e))
    except (MemoryError, RuntimeError) as e:
        if not _memory_is_full(e):
            raise
        code = complain("out of memory; try a smaller network, input or mini-batch")
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    sys.exit(code if isinstance(code, int) else 0)


def _with_help(error: typer.BadParameter) -> str:
    """Return a complaint of the parser, and where to read what will do if it does not say so."""
    message = error.format_message()
    command = error.ctx.command_path if error.ctx is not None else ""
    vague = message.startswith(("Missing", "No such", "Got unexpected")) and message[-1] != "?"
    return f"{message.rstrip('.')}; see {command} --help" if vague and command else message


def complain(message: str) -> int:
    """Print one line of error, cut if it is very long, and return the exit code."""
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    print(f"gammabeta: {line}", file=sys.stderr)
    return 2


def _memory_is_full(error: Exception) -> bool:
    """Whether Python, NumPy or torch could not have the memory it asked for."""
    return (
        isinstance(error, (MemoryError, torch.OutOfMemoryError))
        or "can't allocate memory" in str(error)  # torch on the CPU
    )
