"""``gammabeta info``: what a bug report needs."""

from __future__ import annotations

import platform
import sqlite3
import sys

import torch

import gammabeta
from gammabeta.lab.data.flat import FASHION_MNIST
from gammabeta.ops.cpu import library, openmp


def info() -> None:
    """Print versions and capabilities, for bug reports."""
    accelerators = [
        name
        for name, there in (
            ("cuda", torch.cuda.is_available()),
            ("mps", torch.backends.mps.is_available()),
        )
        if there
    ]
    rows = {
        "gammabeta": gammabeta.__version__,
        "python": f"{platform.python_version()} ({sys.implementation.name})",
        "platform": platform.platform(),
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "vector unit": torch.backends.cpu.get_cpu_capability(),
        "accelerators": ", ".join(accelerators) or "none",
        "kernels": _kernels(),
        "openmp": _openmp(openmp.loaded()),
        "sqlite": sqlite3.sqlite_version,
        "fashion-mnist": str(FASHION_MNIST) if FASHION_MNIST.is_dir() else "not found",
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")


def _kernels() -> str:
    """Name the kernels in use, and those that could be."""
    if library.extension is None:
        return f"torch's own operators (the extension was not built: {library.missing})"
    sets = ", ".join(library.extension.instruction_sets())
    if not library.chosen:
        return f"torch's own operators, by choice (native kernels available: {sets})"
    return f"native, {library.in_use()} (of {sets})"


def _openmp(paths: list[str] | None) -> str:
    """Name the library of threads; there has to be one."""
    if paths is None:
        return "unknown"
    if len(paths) > 1:
        return f"WARNING: {len(paths)} libraries, each with threads of its own: {', '.join(paths)}"
    return paths[0] if paths else "none"
