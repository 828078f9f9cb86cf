"""Where a run is written, and a look at torch after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def torch_is_left_as_it_was() -> Iterator[None]:
    """No function mode stays on, and no stance of the compiler."""
    stance = torch._dynamo.eval_frame._stance.stance
    yield
    left = torch._dynamo.eval_frame._stance.stance
    torch.compiler.set_stance("default")  # one failure, not all that follow
    assert torch.overrides._get_current_function_mode_stack() == []
    assert left == stance == "default"
