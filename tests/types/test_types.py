"""The page's modules are typed in JSDoc; TypeScript's compiler checks them, strictly."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.types
def test_the_pages_modules_are_well_typed() -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    compiler = HERE / "node_modules/.bin/tsc"
    if not compiler.exists():
        install = subprocess.run(
            ["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, capture_output=True, text=True
        )
        if install.returncode:
            pytest.skip(f"TypeScript cannot be installed: {install.stderr[-500:]}")
    check = subprocess.run([compiler, "-p", HERE], capture_output=True, text=True)
    assert check.returncode == 0, check.stdout
