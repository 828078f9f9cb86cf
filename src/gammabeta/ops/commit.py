"""The guard's judgement as one operator of torch's: what a compiled graph has in place of a branch.

As operations of their own, the test and the choice are fused by inductor with the loops that
measure the mini-batch, which then are not vectorized: a compiled ResNet-18 took 1.7 times as long
(`scripts/measure_compiled.py`). An operator of its own is a border that fusion does not cross.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gammabeta.ops.cpu import library
from gammabeta.ops.cpu.support import TYPES

_LIBRARY = torch.library.Library("gammabeta", "FRAGMENT")  # type: ignore[no-untyped-call]
_LIBRARY.define(  # type: ignore[no-untyped-call]
    "commit_statistics(Tensor new_mean, Tensor new_var, Tensor(a!) mean, Tensor(b!) var, "
    "Tensor(c!)? batches, Tensor(d!)? refused) -> ()"
)


def _commit(
    new_mean: Tensor,
    new_var: Tensor,
    mean: Tensor,
    var: Tensor,
    batches: Tensor | None,
    refused: Tensor | None,
) -> None:
    """Write the new statistics where they are finite; count the batch as entered or refused."""
    if library.chosen and _are_plain((new_mean, new_var, mean, var), (batches, refused)):
        statistics = (new_mean.data_ptr(), new_var.data_ptr(), mean.data_ptr(), var.data_ptr())
        counts = (0 if count is None else count.data_ptr() for count in (batches, refused))
        library.extension.accept(*statistics, mean.numel(), TYPES[mean.dtype], *counts)
        return
    entered = torch.dot(new_mean * 0, new_var) == 0  # 0 · finite is 0, 0 · inf and NaN are NaN
    mean.copy_(torch.where(entered, new_mean, mean))
    var.copy_(torch.where(entered, new_var, var))
    if batches is not None:
        batches.add_(entered)
    if refused is not None:
        refused.add_(~entered)


def _are_plain(statistics: tuple[Tensor, ...], counts: tuple[Tensor | None, ...]) -> bool:
    """Whether all are on the CPU, dense, and of the types that the extension takes."""
    dtype, size = statistics[0].dtype, statistics[0].numel()
    return dtype in TYPES and all(
        t is None
        or (
            t.is_cpu
            and t.is_contiguous()
            and not t.is_neg()
            and t.dtype is kind
            and t.numel() == expected
            and t.data_ptr() != 0
        )
        for tensors, kind, expected in ((statistics, dtype, size), (counts, torch.int64, 1))
        for t in tensors
    )


_LIBRARY.impl("commit_statistics", _commit, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
torch.library.register_fake("gammabeta::commit_statistics", lambda *_: None, lib=_LIBRARY)

commit_statistics = torch.ops.gammabeta.commit_statistics.default
