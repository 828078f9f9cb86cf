"""Each test of a layer runs on torch's own operators, and again on the native kernels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from gammabeta.ops.cpu import library, support


@pytest.fixture(
    scope="module",
    autouse=True,
    params=["torch", pytest.param("native", marks=pytest.mark.native)],
)
def kernels(request: pytest.FixtureRequest) -> Iterator[str]:
    """The kernels in use: the fallback, and the best native ones of this machine."""
    if request.param == "native" and library.extension is None:
        pytest.skip(f"the extension was not built: {library.missing}")
    with pytest.MonkeyPatch.context() as patch, library.use(request.param):
        patch.setattr(support, "SMALL", {})  # natively, small inputs are too
        yield request.param


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same numbers in every run, whichever tests run before."""
    torch.manual_seed(0)
