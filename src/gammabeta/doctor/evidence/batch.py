"""Read a batch: its input, its target; and give it back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from gammabeta.statistics.contents import Contents
from gammabeta.statistics.feed import TARGETS
from gammabeta.statistics.undo import undo_all


@contextmanager
def intact(batch: Any) -> Iterator[None]:
    """Restore the tensors of ``batch`` on leaving: a model may write to its input."""
    kept = [Contents(tensor) for tensor in _tensors(batch) if tensor.device.type != "meta"]
    try:
        yield
    finally:
        undo_all(each.restore for each in kept)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list, Mapping)):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(each)


def first_tensor(value: Any) -> Tensor | None:
    """Return the first tensor in a batch or an output: of a tuple, list, mapping or dataclass."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Mapping):
        for key in ("input", "x", "input_ids", "pixel_values", "inputs_embeds", "logits"):
            if isinstance(value.get(key), Tensor):
                return value[key]  # type: ignore[no-any-return]
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        return next((t for each in value if (t := first_tensor(each)) is not None), None)
    return None


def target_of(batch: Any) -> Any:
    """Return the target of a batch, or None."""
    if isinstance(batch, Mapping):
        return next((batch[key] for key in TARGETS if key in batch), None)
    if isinstance(batch, (tuple, list)) and len(batch) > 1:
        return batch[-1]
    return None
