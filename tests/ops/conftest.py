"""The kernels under test: torch's own operators, and every instruction set of this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gammabeta.ops.cpu import library, support

SETS = [name for name in library.NAMES if name not in (library.TORCH, library.BEST)]


def _use(name: str) -> Iterator[str]:
    if library.extension is None:
        pytest.skip(f"the extension was not built: {library.missing}")
    if name not in library.available():
        pytest.skip(f"this machine has no {name}")
    with library.use(name):
        yield name


@pytest.fixture(scope="module", params=SETS)
def native(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set, in use."""
    yield from _use(request.param)


@pytest.fixture(
    scope="module",
    params=["torch", *(pytest.param(name, marks=pytest.mark.native) for name in SETS)],
)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """Torch's own operators and each instruction set, in use."""
    if request.param == "torch":
        with library.use("torch"):
            yield "torch"
    else:
        yield from _use(request.param)


@pytest.fixture(autouse=True)
def however_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels compute what by default is too small for them."""
    monkeypatch.setattr(support, "SMALL", {})
