"""The native extension, if it was built, and the choice of kernels for the process.

What a call chose it keeps: `use` decides for the forward passes to come, and the backward pass of
an earlier one runs on the kernels that its forward pass ran on.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import torch  # its OpenMP has to be there before the extension asks for one

from gammabeta.names import known

TORCH = "torch"
BEST = "native"
NAMES = (TORCH, "baseline", "avx2", "avx512", BEST)
"""What `use` understands; not every machine has each."""

VARIABLE = "GAMMABETA_KERNELS"
"""The environment variable that is read, once, when gammabeta is imported."""

extension: Any = None
"""The native module, or None."""

missing = ""
"""Why there is none."""

reads_tensors = False
"""Whether the extension can read torch's tensors by itself."""

chosen = False
"""Whether the extension's kernels are in use; read at every call, set by `use` alone."""

try:
    extension = importlib.import_module("gammabeta.ops.cpu._native")
except ModuleNotFoundError:
    missing = "was there no C++ compiler when it was installed?"
except ImportError as error:  # built, but not for this machine
    missing = " ".join(str(error).split())
else:
    # A thread that torch has not met has OpenMP's number of threads, not torch's: to be asked for
    # it makes torch set it.
    extension.at_new_thread(torch.get_num_threads)
    reads_tensors = hasattr(torch.Tensor, "__dlpack_c_exchange_api__") and extension.read_tensors(
        torch.Tensor.__dlpack_c_exchange_api__,
        torch.Tensor,
        torch.nn.Parameter,
        torch.empty_like,
        torch.empty,
        torch.Tensor.is_neg,
        torch.Tensor.storage_offset,
        torch.device("cpu"),
        (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.uint8),
    )


def available() -> tuple[str, ...]:
    """Return the names of the kernels this machine has: ``"torch"``, then by instruction set."""
    return (TORCH,) if extension is None else (TORCH, *extension.instruction_sets())


def in_use() -> str:
    """Return the name of the kernels in use: ``"torch"`` or an instruction set."""
    return str(extension.instruction_set()) if chosen else TORCH


class Former:
    """What was in use before `use`; as a context manager it restores that at the end."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        _choose(self.name)


def use(name: str) -> Former:
    """Choose the kernels of this process's forward passes to come, on the CPU.

    Args:
        name: ``"torch"`` (torch's own operators), ``"native"`` (the best native ones), or an
            instruction set: ``"baseline"``, ``"avx2"``, ``"avx512"``.

    Returns:
        A context manager that restores the former choice, for who wants it restored.

    Raises:
        ValueError: an unknown name, or one that this machine does not have.

    The choice is of the process, not of a thread: change it while no other thread computes.

    Example:
        >>> from gammabeta.ops import use
        >>> with use("torch"):
        ...     pass  # whatever runs here runs on torch's own operators
    """
    former = Former(in_use())
    _choose(_here("name", name))
    return former


def _here(argument: str, name: str) -> str:
    """Return the name of what this machine has under ``name``."""
    known(argument, name, NAMES)
    names = available()
    if name == BEST and extension is not None:
        return names[-1]
    if name not in names:
        why = f" (the extension is missing: {missing})" if extension is None else ""
        raise ValueError(f"{argument}={name!r}: this machine has {', '.join(names)}{why}")
    return name


def _choose(name: str) -> None:
    global chosen
    chosen = name != TORCH
    if chosen:
        extension.use_instruction_set(name)


if os.environ.get(VARIABLE):
    _choose(_here(VARIABLE, os.environ[VARIABLE]))
elif extension is not None:
    chosen = True
