"""Take some examples out of a batch, and compare what a model made of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gammabeta.doctor.evidence.batch import first_tensor, target_of
from gammabeta.doctor.subject import Subject

_IN_THE_MODEL = ("GB108", "GB109", "GB110", "GB401", "GB402", "GB403")


def examples(batch: Any, chosen: Any, size: int) -> Any:
    """Return ``batch`` with the examples ``chosen`` (a slice or an index) of ``size`` ones.

    Every tensor whose first dim has that size is indexed, as deep as they are; a list of that
    length is, too. Everything else is kept.
    """
    if isinstance(batch, Tensor):
        return batch[chosen] if batch.dim() and batch.shape[0] == size else batch
    if isinstance(batch, Mapping):
        return {key: examples(value, chosen, size) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(examples(value, chosen, size) for value in batch))
    if isinstance(batch, (tuple, list)):
        if len(batch) == size and isinstance(chosen, slice) and not _tensors_in(batch):
            return batch[chosen]
        return type(batch)(examples(value, chosen, size) for value in batch)
    return batch


def is_by_example(model: nn.Module, batch: Any, output: Any) -> bool:
    """Whether the first dim of a batch and of a model's output surely indexes examples.

    Recurrent layers and attention may take time first, so more is asked of models with them: a
    target with one item an example, or an output that has lost the dim of time.
    """
    x, y = first_tensor(batch), first_tensor(output)
    if x is None or y is None or not x.dim() or not y.dim() or x.shape[0] != y.shape[0]:
        return False
    if all(getattr(module, "batch_first", True) for module in model.modules()) or x.dim() == 4:
        return True
    target = target_of(batch)
    if isinstance(target, Tensor) and target.dim():
        return bool(target.shape[0] == x.shape[0]) and (
            target.dim() == 1 or target.shape[:2] != x.shape[:2]
        )
    return y.dim() < x.dim() and x.shape[0] != x.shape[1]


def outputs(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of floating-point numbers in a model's output."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.dim():
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from outputs(each)
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from outputs(each)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from outputs([getattr(value, f.name) for f in dataclasses.fields(value)])


def distance(first: Tensor, second: Tensor) -> float:
    """Return the root mean square difference in units of the spread of ``first``."""
    a, b = first.detach().double(), second.detach().double()
    spread = float(a.std()) if a.numel() > 1 else 0.0
    scale = spread if spread > 1e-6 * float(a.abs().max()) else float(a.square().mean().sqrt())
    apart = float((a - b).square().mean().sqrt())
    return apart / scale if scale > 0 else float(apart > 0)


def rounding(*tensors: Tensor) -> float:
    """Return the `distance` up to which two computations may differ by rounding alone."""
    coarse = max(float(torch.finfo(t.dtype).eps) for t in tensors)
    return max(1e-3, 16 * coarse)


def found_in_model(subject: Subject) -> bool:
    """Whether rules on the model alone have found norms that its mode does not reach, or a graph.

    Then what batches show has its root there.
    """
    return any(f.code in _IN_THE_MODEL and f.severity != "info" for f in subject.findings)


def _tensors_in(values: Any) -> bool:
    return any(isinstance(value, (Tensor, Mapping, tuple, list)) for value in values)
