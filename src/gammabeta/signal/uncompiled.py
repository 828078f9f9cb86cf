"""Let compiled code run uncompiled for a while, whoever asks and in whatever order they stop."""

from __future__ import annotations

import contextlib

import torch

_depth = 0
_stance: contextlib.AbstractContextManager[object] | None = None


def hold() -> None:
    """Let what `torch.compile` has compiled run uncompiled, until as many calls of `release`."""
    global _depth, _stance
    _depth += 1
    if _depth == 1:
        _stance = torch.compiler.set_stance("force_eager")


def release() -> None:
    """End one `hold`."""
    global _depth, _stance
    _depth -= 1
    if _depth == 0 and _stance is not None:
        _stance.__exit__(None, None, None)
        _stance = None
