"""The momentum of a batch norm is 0, above 0.5, or that of another framework.

## What it is

PyTorch's ``momentum`` is the share of the new batch in the running statistics: 0.1 by default.
Keras, TensorFlow and Caffe call the share of the *old* value momentum (0.99 or 0.9). A value that
was copied from them makes PyTorch's running statistics those of the last batch. With 0, they never
leave their initial values.

## Why it matters

Evaluation normalizes by running statistics. With momentum 0.99 they are as noisy as one batch; with
0 they are those of no data.

## How it is detected

The setting is read. 0 is an error unless the layer is frozen; above 0.5 is a warning.

## Fix

```python
norm.momentum = 0.01  # 1 − 0.99
```

## Source

Documentation of `torch.nn.BatchNorm2d` and of `keras.layers.BatchNormalization`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import nn

from gammabeta.doctor.finding import Finding
from gammabeta.doctor.rule import static
from gammabeta.doctor.subject import Subject

_PORTED = 0.5


@static("GB103", "momentum", "the momentum is 0, above 0.5, or that of another framework")
def check(subject: Subject) -> Iterator[Finding]:
    """Yield a finding for each such batch norm."""
    for norm in subject.batch_norms:
        momentum = getattr(norm.module, "momentum", None)
        if not isinstance(momentum, (int, float)) or not subject.is_moving(norm):
            continue
        if momentum == 0:
            yield Finding(
                severity="error",
                layer=norm.path,
                cause="momentum is 0, so the running statistics never leave their initial values",
                numbers={"momentum": momentum},
                fix="norm.momentum = 0.1",
                repair=_setter(norm.path, 0.1),
            )
        elif momentum > _PORTED:
            ours = round(1 - momentum, 10)
            yield Finding(
                severity="warning",
                layer=norm.path,
                cause="momentum is the share of the new batch in PyTorch, and this one replaces "
                "most of the running statistics in every step",
                numbers={"momentum": momentum, "PyTorch's default": 0.1},
                fix=f"norm.momentum = {ours or 0.1}  # 1 − {momentum}",
                repair=_setter(norm.path, ours or 0.1),
            )


def _setter(path: str, momentum: float) -> Callable[[nn.Module], str]:
    def repair(model: nn.Module) -> str:
        norm = model.get_submodule(path)
        before, norm.momentum = norm.momentum, momentum  # type: ignore[assignment]
        return f"{path}.momentum: {before} → {momentum}"

    return repair
