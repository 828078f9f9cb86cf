"""``gammabeta info``: what a bug report needs."""

from __future__ import annotations

import platform
import sqlite3
import sys

import torch

import gammabeta
from gammabeta.training.data import FASHION_MNIST


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
        "kernels": "torch's own operators",
        "sqlite": sqlite3.sqlite_version,
        "fashion-mnist": str(FASHION_MNIST) if FASHION_MNIST.is_dir() else "not found",
    }
    for name, value in rows.items():
        print(f"{name:<14} {value}")
