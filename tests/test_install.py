"""Installing where there is no compiler: the package works, on torch's own operators.

Installed from a source distribution, so that this also says what one holds.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.install

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src"

# An editable installation of the same package would be found first.
INSTALLED = """
import runpy, sys
sys.meta_path[:] = [f for f in sys.meta_path if "Redirecting" not in type(f).__name__]
"""

INFO = """
sys.argv = ["gammabeta", "info"]
runpy.run_module("gammabeta", run_name="__main__")
"""

USED = """
import torch
import gammabeta as gb
from gammabeta.ops import use
from gammabeta.ops.cpu import library

assert "installed" in gb.__file__, gb.__file__
assert library.extension is None
assert library.available() == ("torch",)
try:
    use("native")
except ValueError as error:
    assert "was there no C++ compiler" in str(error), error
x = torch.randn(4, 3, 5, 5, requires_grad=True)
layer, plain = gb.BatchNorm2d(3, activation="relu"), torch.nn.BatchNorm2d(3)
assert torch.equal(layer(x, x), torch.relu(plain(x) + x))
layer(x).sum().backward()
layer(x.detach() + torch.nan)
assert layer.refused_batches == 1
for layer in (gb.LayerNorm(5), gb.GroupNorm(3, 3), gb.RMSNorm(5), gb.InstanceNorm2d(3)):
    assert layer(x).shape == x.shape
model = gb.convert(torch.nn.Sequential(torch.nn.BatchNorm2d(3)))
gb.calibrate(model, [torch.randn(4, 3, 5, 5)])
print("all well")
"""


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution that a release would be."""
    pytest.importorskip("scikit_build_core")
    folder = tmp_path_factory.mktemp("sdist")
    build = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, str(folder), cwd=ROOT)
    return next(folder.glob("gammabeta-*.tar.gz"))


def test_a_source_distribution_holds_what_is_compiled_and_nothing_compiled(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        held = {str(Path(*Path(name).parts[1:])) for name in archive.getnames()}
    ours = {str(path.relative_to(ROOT)) for path in (SRC / "gammabeta").rglob("*.py")}
    native = SRC / "gammabeta/ops/cpu/native"
    ours |= {str(path.relative_to(ROOT)) for path in native.iterdir()}
    assert len(ours) > 90
    assert ours | {"CMakeLists.txt", "pyproject.toml", "LICENSE", "README.md"} <= held
    assert not [name for name in held if name.endswith((".so", ".o", ".pyc"))]


def test_without_a_compiler(sdist: Path, tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    target, no = tmp_path / "installed", "/bin/false"
    if not Path(no).exists():
        pytest.skip("there is no /bin/false to be the compiler")
    run(
        *pip,
        *("--no-deps", "--no-build-isolation", "--no-cache-dir", "--target", str(target)),
        str(sdist),
        cwd=tmp_path,
        CC=no,
        CXX=no,
    )
    assert not list(target.rglob("_native*"))
    assert not list(target.rglob("*.cpp"))

    def python(code: str) -> str:
        return run(sys.executable, "-c", INSTALLED + code, cwd=tmp_path, PYTHONPATH=str(target))

    assert python(USED) == "all well\n"
    info = python(INFO)
    assert "torch's own operators (the extension was not built: " in info
