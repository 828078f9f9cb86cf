"""``gammabeta``, ``gammabeta info``, and the help of every command."""

from __future__ import annotations

import platform
import re
import sqlite3
from pathlib import Path

import pytest
import torch

from gammabeta.lab.demo.presets import PRESETS
from gammabeta.ops.cpu import library
from tests.cli.command import Shell, gammabeta


def test_what_a_bug_report_needs(tmp_path: Path) -> None:
    lines = gammabeta("info", folder=tmp_path).ok().splitlines()
    rows = [(line[:14].rstrip(), line[15:]) for line in lines]
    names = [name for name, _ in rows]
    assert names == [
        *("gammabeta", "python", "platform", "torch", "threads", "vector unit", "accelerators"),
        *("kernels", "openmp", "sqlite", "fashion-mnist"),
    ]
    values = dict(rows)
    assert values["gammabeta"] == "0.1.0"
    assert (
        values["python"]
        == f"{platform.python_version()} ({platform.python_implementation().lower()})"
    )
    assert values["platform"] == platform.platform()
    assert values["torch"] == torch.__version__
    assert int(values["threads"]) >= 1
    assert values["vector unit"] == torch.backends.cpu.get_cpu_capability()
    assert (values["accelerators"] == "none") == (not torch.accelerator.is_available())
    if library.extension is None:
        assert values["kernels"].startswith("torch's own operators (the extension was not built: ")
    else:
        sets = library.extension.instruction_sets()
        assert values["kernels"] == f"native, {sets[-1]} (of {', '.join(sets)})"
    # torch's own, and no other.
    assert values["openmp"] == "unknown" or Path(values["openmp"]).exists()
    assert values["sqlite"] == sqlite3.sqlite_version
    data = Path("/usr/share/datasets/fashion-mnist")
    assert values["fashion-mnist"] == (str(data) if data.is_dir() else "not found")
    assert list(tmp_path.iterdir()) == []


FORMS = {"--help", "--model", "--batch", "--size", "--dtype", "--variants", "--threads"}
OPTIONS = {
    (): {"--help", "--version"},
    ("bench",): {"--help"},
    ("bench", "all"): {"--help", "--rivals", "--threads", "--allocator", "--quick", "--out"},
    ("bench", "norm"): {
        *("--help", "--shapes", "--formats", "--ops", "--rivals", "--threads", "--allocator"),
        *("--seconds", "--quick", "--out"),
    },
    ("bench", "step"): FORMS | {"--allocator", "--seconds", "--quick", "--out"},
    ("bench", "memory"): FORMS | {"--quick", "--out"},
    ("bench", "error"): {"--help", "--shapes", "--formats", "--threads", "--quick", "--out"},
    ("bench", "net"): {
        *("--help", "--batch", "--size", "--layout", "--dtype", "--mode", "--variants"),
        *("--profile", "--threads", "--allocator", "--seconds", "--quick", "--out"),
    },
    ("bench", "zoo"): {"--help", "--limit", "--jobs", "--out"},
    ("info",): {"--help"},
    ("doctor",): {
        *("--help", "--checkpoint", "--batches", "--loss", "--select", "--ignore", "--json"),
        *("--sarif", "--fix", "--out", "--explain", "--list"),
    },
    ("view",): {
        *("--help", "--port", "--host", "--open", "--no-open", "--html", "--table"),
    },
    ("demo",): {
        *("--help", "--preset", "--dataset", "--data-dir", "--lr", "--init-scale", "--activation"),
        *(
            "--depth",
            "--width",
            "--norm",
            "--batch-size",
            "--optimizer",
            "--bn-momentum",
            "--steps",
        ),
        *("--seed", "--out", "--port", "--server", "--no-server", "--open", "--no-open"),
    },
}


@pytest.mark.parametrize("command", OPTIONS)
def test_help_names_every_option(shell: Shell, tmp_path: Path, command: tuple[str, ...]) -> None:
    text = shell(*command, "--help", folder=tmp_path).ok()
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text)) == OPTIONS[command]
    assert max(map(len, text.splitlines())) <= 80
    if command == ():
        commands = re.findall(r"^│ (demo|view|info|bench)\b", text, re.MULTILINE)
        assert commands == ["demo", "view", "info", "bench"]
        assert shell(folder=tmp_path).ok() == text  # no command asks for help
    if command == ("demo",):
        words = " ".join(re.sub(r"[│\n]", " ", text).split())
        assert f"{', '.join(PRESETS)}." in words
