"""Fully sharded training treats a batch norm wrongly.

## What it is

FSDP shards parameters and leaves buffers where they are: it neither shards nor synchronizes them,
and its mixed precision may cast them.

## Why it matters

With ``buffer_dtype=torch.bfloat16`` the running statistics have 8 bits: an update of less than one
part in 256 is lost, and they stop following. Local batch norms have different running statistics on
each rank, and a checkpoint holds those of one.

## How it is detected

The wrapper nearest to each batch norm is read (`FullyShardedDataParallel`, or a module that
`fully_shard` was applied to). A low ``buffer_dtype`` is a warning; batch norms that are neither
frozen nor synchronized are a warning with several processes, and information if there is one or
their number is unknown; inputs that are cast to a low precision are information.

## Fix

```python
MixedPrecision(param_dtype=torch.bfloat16, buffer_dtype=torch.float32)
```

## Source

Documentation of `torch.distributed.fsdp.MixedPrecision`, and its ``_module_classes_to_ignore``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.parallel import LOW, Wrapper, innermost, sharded
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.layers.running import synchronizes


@static("GB113", "fsdp", "fully sharded training treats a batch norm wrongly")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield the findings of each batch norm that is sharded."""
    wrappers = sharded(subject)
    if not wrappers:
        return
    for norm in subject.batch_norms:
        wrapper = innermost(wrappers, norm)
        if wrapper is None or not subject.is_moving(norm):
            continue
        found = _precision(norm, wrapper) or _local(norm, wrapper)
        if found is not None:
            yield found


def _precision(norm: Norm, wrapper: Wrapper) -> Finding | None:
    buffers, params = _policy(wrapper.module)
    if buffers in LOW:
        return Finding(
            severity="warning",
            layer=norm.path,
            cause="FSDP casts the running statistics to a low precision, in which small updates "
            "are lost",
            numbers={"buffer_dtype": str(buffers).removeprefix("torch.")},
            fix="MixedPrecision(…, buffer_dtype=torch.float32)",
        )
    own = wrapper.module is norm.module
    if params in LOW and not own and norm.module.weight is not None:
        return Finding(
            severity="info",
            layer=norm.path,
            cause="FSDP casts γ, β and the input of this batch norm to a low precision",
            numbers={"param_dtype": str(params).removeprefix("torch.")},
            fix="fully_shard(norm, mp_policy=MixedPrecisionPolicy())  # before its parent",
        )
    return None


def _local(norm: Norm, wrapper: Wrapper) -> Finding | None:
    if synchronizes(norm.module):
        return None
    return Finding(
        severity="info" if wrapper.size in (None, 1) else "warning",
        layer=norm.path,
        cause="FSDP does not synchronize buffers, so each rank has running statistics of its own",
        numbers={"ranks": wrapper.size},
        fix="model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # before FSDP",
    )


def _policy(module: Any) -> tuple[Any, Any]:
    """Return the dtype of buffers and of parameters; None each if it is not cast."""
    policy = getattr(module, "mixed_precision", None)
    if policy is None and hasattr(module, "_get_fsdp_state"):
        policy = getattr(module._get_fsdp_state(), "_mp_policy", None)
    return getattr(policy, "buffer_dtype", None), getattr(policy, "param_dtype", None)
