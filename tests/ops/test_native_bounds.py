"""The kernels touch their own memory and nothing beside it.

Two ways. Every tensor stands against a page that may not be touched, and so does the end of the
workspace, which has the exact size: that is so of the very code that is installed, in every
instruction set, masked loads included. And the baseline is built anew with GCC's sanitizers, which
see every byte and every shift, and the gaps between the pieces of the workspace. Both ways run on
as many threads as a large machine has.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gammabeta.ops.cpu import library

ROOT = Path(__file__).parents[2]


def drive(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-m", "tests.ops.bounds", *arguments],
        cwd=ROOT,
        # Passive: 256 threads on a few cores would else wait for each other by turning in circles.
        env={**os.environ, "PYTHONPATH": path, "OMP_WAIT_POLICY": "passive", **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.native
@pytest.mark.skipif(library.extension is None, reason="the extension was not built")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux for guard pages")
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("after", "--best"), marks=pytest.mark.brief),
        pytest.param(("none", "--threads", "--best"), marks=pytest.mark.brief),
        *(
            pytest.param(arguments, marks=pytest.mark.sweep)
            for arguments in (("after",), ("before",), ("none", "--threads"))
        ),
    ],
)
def test_pages_that_may_not_be_touched(arguments: tuple[str, ...]) -> None:
    done = drive(*arguments)
    names = library.available()[-1:] if "--best" in arguments else library.available()[1:]
    assert done.returncode == 0, f"{done.returncode} (-11 is an overrun)\n{done.stderr}"
    assert done.stdout.endswith(f"calls, {', '.join(names)}\n")


def gcc(*arguments: str) -> str:
    return subprocess.run(["gcc", *arguments], capture_output=True, text=True).stdout.strip()


@pytest.mark.sweep
@pytest.mark.sanitizer
@pytest.mark.timeout(900)  # compiling takes minutes on a slow machine
def test_under_the_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    nanobind = pytest.importorskip("nanobind")
    cmake, folder = shutil.which("cmake"), Path(sys.executable).parent
    cmake = str(folder / "cmake") if (folder / "cmake").exists() else cmake
    if cmake is None or shutil.which("gcc") is None or shutil.which("g++") is None:
        pytest.skip("needs CMake and GCC")
    libraries = [gcc(f"-print-file-name={name}") for name in ("libasan.so", "libstdc++.so.6")]
    if not all(Path(name).is_absolute() for name in libraries):
        pytest.skip("this GCC has no sanitizers")
    prepare = [
        *(cmake, "-S", str(ROOT), "-B", str(tmp_path), "-DGAMMABETA_SANITIZE=address,undefined"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dnanobind_DIR={nanobind.cmake_dir()}"),
        "-DCMAKE_CXX_COMPILER=g++",
    ]
    for command in (prepare, [cmake, "--build", str(tmp_path), "--parallel", "2"]):
        made = subprocess.run(command, capture_output=True, text=True, timeout=800)
        assert made.returncode == 0, made.stdout + made.stderr
    (built,) = tmp_path.glob("_native*.so")
    for arguments in (("none", str(built)), ("none", "--threads", str(built))):
        done = drive(
            *arguments,
            LD_PRELOAD=" ".join(libraries),  # the second, for the first to find what it stands for
            ASAN_OPTIONS="detect_leaks=0:abort_on_error=0",
            UBSAN_OPTIONS="print_stacktrace=1",
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert done.stdout.endswith("calls, baseline\n")
