"""How near to torch's layers ours have to be: the same bits on torch's operators, else rounding.

Every test here runs on torch's operators and on the native kernels (`conftest.kernels`). On the
first, a layer of torch's and ours run the same operators, and nothing may differ. The native
kernels add in another order and round elsewhere. Both are within some roundings of the true value,
so they are within twice that of one another, and these tests' data bound it: |x| <= 12 and σ >= 1,
so that κ = max|x| / σ <= 12; |γ| <= 3; float32's unit is u = 6e-8.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.testing import assert_close

from gammabeta.ops.cpu import library


def agree(ours: Any, theirs: Any) -> None:
    """Assert that ``ours`` is what torch gives, a tensor or a collection of them.

    Natively: a value may be off by u · κ · |γ| = 2e-6 beside the largest of its tensor, which is
    also what a sum of 60 terms may be off by (60 u = 4e-6, if all roundings were to go one way).
    """
    if isinstance(theirs, Mapping):
        assert list(ours) == list(theirs)
        ours, theirs = list(ours.values()), list(theirs.values())
    if isinstance(theirs, (list, tuple)):
        for a, b in zip(ours, theirs, strict=True):
            agree(a, b)
    elif not isinstance(theirs, Tensor):
        assert ours == theirs
    elif library.in_use() == "torch" or not theirs.is_floating_point():
        assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
    else:
        largest = float(theirs.detach().nan_to_num(0, 0, 0).abs().max()) if theirs.numel() else 0.0
        unit = torch.finfo(theirs.dtype).eps / 2
        assert_close(ours, theirs, rtol=0, atol=36 * unit * max(largest, 1e-3), equal_nan=True)
