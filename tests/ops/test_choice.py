"""Choosing the kernels: `use`, the environment variable, and what ``gammabeta info`` says of it."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import gammabeta as gb
from gammabeta.ops import use
from gammabeta.ops.cpu import library, openmp

info = importlib.import_module("gammabeta.cli.info")  # its name is that of the command, too
native = pytest.mark.native
needs_native = pytest.mark.skipif(library.extension is None, reason="the extension was not built")


def runs_on() -> str:
    """What a training forward pass runs on, by the name of its gradient's function."""
    layer, x = gb.BatchNorm1d(3), torch.randn(4, 3, requires_grad=True)
    return {"_NormBackward": library.in_use(), "NativeBatchNormBackward0": "torch"}[
        type(layer(x).grad_fn).__name__
    ]


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@native
@needs_native
def test_use_sets_and_restores() -> None:
    before = library.in_use()
    for name in library.available():
        with use(name):
            assert library.in_use() == runs_on() == name
            with use("torch"):
                assert library.in_use() == runs_on() == "torch"
            assert library.in_use() == runs_on() == name
        assert library.in_use() == runs_on() == before
    try:
        use("torch")  # for good
        assert runs_on() == "torch"
        use("native")
        assert runs_on() == library.available()[-1]
    finally:
        use(before)


def test_a_failure_inside_restores_too() -> None:
    before = library.in_use()
    with pytest.raises(KeyError), use("torch"):
        raise KeyError
    assert library.in_use() == before


def test_unknown_names() -> None:
    before = library.in_use()
    with pytest.raises(
        ValueError, match=r"^name='avx' is not known; did you mean 'avx2'\? Choices"
    ):
        use("avx")
    assert library.in_use() == before


@native
@needs_native
def test_names_that_this_machine_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    old = SimpleNamespace(
        instruction_sets=lambda: ["baseline", "avx2"], instruction_set=lambda: "avx2"
    )
    monkeypatch.setattr(library, "extension", old)
    with pytest.raises(
        ValueError, match=r"^name='avx512': this machine has torch, baseline, avx2$"
    ):
        use("avx512")


def test_names_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "extension", None)
    monkeypatch.setattr(library, "chosen", False)
    monkeypatch.setattr(library, "missing", "no compiler")
    for name in ("native", "baseline"):
        said = rf"^name='{name}': this machine has torch \(the extension is missing: no compiler\)$"
        with pytest.raises(ValueError, match=said):
            use(name)
    with use("torch"):
        assert runs_on() == "torch"
    assert info._kernels() == "torch's own operators (the extension was not built: no compiler)"


def test_what_info_says() -> None:
    with use("torch"):
        assert info._kernels().startswith("torch's own operators")
    for name in library.available()[1:]:
        with use(name):
            assert info._kernels() == f"native, {name} (of {', '.join(library.available()[1:])})"


@pytest.mark.parametrize("name", library.available())
def test_the_environment_variable(name: str) -> None:
    code = "import gammabeta; from gammabeta.ops.cpu import library; print(library.in_use())"
    assert python(code, GAMMABETA_KERNELS=name).stdout == f"{name}\n"


def test_the_environment_variable_misspelt() -> None:
    done = python("import gammabeta", GAMMABETA_KERNELS="trch")
    assert done.returncode != 0
    said = "ValueError: GAMMABETA_KERNELS='trch' is not known; did you mean 'torch'? Choices: "
    assert done.stderr.splitlines()[-1].startswith(said)


@native
@needs_native
@pytest.mark.parametrize("later", library.available())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_backward_runs_on_what_forward_ran_on(later: str, dtype: torch.dtype) -> None:
    """Also where a mask was kept, which each instruction set lays out in its own way."""
    for name in library.available()[1:]:
        layer = gb.BatchNorm2d(5, activation="relu").to(dtype)
        x, r, g = torch.randn(3, 2, 5, 13, 11).to(dtype).unbind()
        found = []
        for other in (name, later):
            a, b = x.clone().requires_grad_(), r.clone().requires_grad_()
            layer.zero_grad()
            with use(name):
                y = layer(a, b)
            with use(other):
                y.backward(g)
            found.append((y.detach(), a.grad, b.grad, layer.weight.grad, layer.bias.grad))
        assert all(torch.equal(u, v) for u, v in zip(*found, strict=True))


def test_openmp_libraries_are_counted(tmp_path: Path) -> None:
    row = "7f00-7f01 r-xp 00000000 fe:00 42 "
    maps = tmp_path / "maps"
    names = ["/a/libgomp.so.1", "/b/libgomp-a34b.so.1.0.0", "/c/libomp.so", "/d/libiomp5.so"]
    others = ["/e/libcomposer.so", "/f/libgompute.txt", "[heap]", ""]
    maps.write_text("\n".join(row + path for path in [*names, *names, *others]))
    assert openmp.loaded(maps) == sorted(names)
    assert openmp.loaded(tmp_path / "nowhere") is None
    said = info._openmp(names[:2])
    assert said == f"WARNING: 2 libraries, each with threads of its own: {', '.join(names[:2])}"
    assert info._openmp(names[:1]) == names[0]
    assert info._openmp([]) == "none"
    assert info._openmp(None) == "unknown"


@native
@needs_native
def test_one_openmp_library_for_torch_and_the_extension() -> None:
    code = "from gammabeta.ops.cpu import openmp; print(len(openmp.loaded() or [0]))"
    assert python(code).stdout == "1\n"
