"""DistributedDataParallel does not keep what belongs to a norm the same on all ranks.

## What it is

`DistributedDataParallel` averages the gradients of the parameters that it found when it was made,
and copies the buffers of rank 0 to all ranks before each forward pass, if ``broadcast_buffers`` is
on.

## Why it matters

With ``broadcast_buffers=False`` and local batch norms, each rank has running statistics of its own
part of the data: ranks evaluate differently, and the checkpoint of rank 0 is one of several models.
A norm whose parameters were replaced, or unfrozen, after the model was wrapped is not averaged at
all: its γ and β drift apart.

## How it is detected

The wrapper is read: its ``broadcast_buffers``, the parameters and buffers that it ignores, its
mixed precision, and the parameters it holds against those of the model. With batches, a local batch
below 8 examples is information, because each local batch norm sees no more than that.

## Fix

```python
model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
model = DistributedDataParallel(model)  # broadcast_buffers=True is the default
```

## Source

Documentation of `torch.nn.parallel.DistributedDataParallel`; Wu & He 2018, arXiv:1803.08494, for
small local batches.
"""

from __future__ import annotations

from collections.abc import Iterator

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.model.parallel import LOW, Wrapper, data_parallel, innermost, logged
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Norm, Subject
from gammabeta.layers.running import synchronizes

_FEW = 8


@static("GB112", "ddp", "DistributedDataParallel does not keep a norm the same on all ranks")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield the findings of each norm in or beside such a wrapper."""
    wrappers = data_parallel(subject)
    if not wrappers:
        return
    for norm in subject.norms:
        wrapper = innermost(wrappers, norm)
        found = _outside(norm, wrappers) if wrapper is None else _inside(subject, norm, wrapper)
        if found is not None:
            yield found
    for wrapper in wrappers:
        yield from _unfrozen(subject, wrapper)
    yield from _small(subject, wrappers)


def _inside(subject: Subject, norm: Norm, wrapper: Wrapper) -> Finding | None:
    ddp = wrapper.module
    known = {id(p) for p in getattr(ddp, "_module_parameters", ())}
    ignored = set(getattr(ddp, "parameters_to_ignore", ()))
    path = norm.path[len(wrapper.path) + 1 :] if wrapper.path else norm.path
    path = path.removeprefix("module.")
    mine = [p for p in norm.module.parameters(recurse=False) if p.requires_grad]
    if known and any(id(p) not in known for p in mine):
        skipped = f"{path}.weight" in ignored
        return Finding(
            severity="error",
            layer=norm.path,
            cause="DDP does not average the gradients of its parameters: "
            + (
                "they are among those it ignores"
                if skipped
                else "they were added after the model was wrapped"
            ),
            numbers={"parameters": len(mine), "ranks": wrapper.size},
            fix="model = DistributedDataParallel(model)  # after the last change of its parameters",
        )
    if not subject.is_moving(norm) or synchronizes(norm.module):
        return None
    if not ddp.broadcast_buffers or f"{path}.running_mean" in ignored:
        return Finding(
            severity="warning",
            layer=norm.path,
            cause="each rank has running statistics of its own: DDP does not broadcast them",
            numbers={"broadcast_buffers": bool(ddp.broadcast_buffers), "ranks": wrapper.size},
            fix="model = DistributedDataParallel(nn.SyncBatchNorm.convert_sync_batchnorm(net))\n"
            "# or broadcast_buffers=True",
        )
    dtype = getattr(getattr(ddp, "mixed_precision", None), "buffer_dtype", None)
    if dtype in LOW:
        return Finding(
            severity="warning",
            layer=norm.path,
            cause="DDP's mixed precision casts the running statistics to a low precision, in which "
            "small updates are lost",
            numbers={"buffer_dtype": str(dtype).removeprefix("torch.")},
            fix="_MixedPrecision(…, buffer_dtype=torch.float32)",
        )
    return None


def _unfrozen(subject: Subject, wrapper: Wrapper) -> Iterator[Finding]:
    """Yield a finding if parameters of norms were unfrozen after the wrapper was made."""
    counted = logged(wrapper).get("num_parameter_tensors")
    if not isinstance(counted, int):
        return
    ignored = set(getattr(wrapper.module, "parameters_to_ignore", ()))
    named = wrapper.module.module.named_parameters()
    now = [p for name, p in named if p.requires_grad and name not in ignored]
    norms = [
        norm.path
        for norm in subject.norms
        if wrapper.contains(norm.path)
        and any(p.requires_grad for p in norm.module.parameters(recurse=False))
    ]
    if len(now) > counted and norms:
        yield Finding(
            severity="error",
            layer=norms[0],
            layers=tuple(norms),
            cause="parameters were unfrozen after DDP was made, which does not average their "
            "gradients: ranks drift apart",
            numbers={"parameters": len(now), "averaged": counted, "ranks": wrapper.size},
            fix="model = DistributedDataParallel(model)  # after the last change of requires_grad",
        )


def _outside(norm: Norm, wrappers: list[Wrapper]) -> Finding | None:
    trained = any(p.requires_grad for p in norm.module.parameters(recurse=False))
    if not trained or not norm.module.training:
        return None
    return Finding(
        severity="warning",
        layer=norm.path,
        cause="it is outside DDP while other parts of the model are inside, so its gradients and "
        "statistics differ between ranks",
        numbers={"ranks": wrappers[0].size},
        fix="model = DistributedDataParallel(model)  # the whole model, not a part",
    )


def _small(subject: Subject, wrappers: list[Wrapper]) -> Iterator[Finding]:
    if subject.evidence is None:
        return
    local = [
        n
        for n in subject.batch_norms
        if subject.is_moving(n) and not synchronizes(n.module) and innermost(wrappers, n)
    ]
    sizes = subject.evidence.sizes
    if local and sizes and max(sizes) < _FEW:
        yield Finding(
            severity="info",
            layer=local[0].path,
            layers=tuple(n.path for n in local),
            cause="a batch norm in DDP normalizes by the local batch, which is small",
            numbers={"local batch": max(sizes), "ranks": wrappers[0].size},
            fix="model = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # before DDP",
        )
